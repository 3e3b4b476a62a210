"""A cluster with Stageline installed, as a user has it; what is kept when a case fails.

E2E_KUBECONFIG names a cluster of the caller's, whose nodes have the images; without it the one of `make cluster` is
used, with what `make images` gave to its registry. It stays up, so that a failure can be looked into.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator, Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from cluster import life
from cluster.layout import KUBECONFIG
from support.kube.helm import Helm
from support.kube.parts import obtain_clients
from user import failure, release
from user.kubectl import Kubectl

FAILURES = Path(os.environ.get("E2E_FAILURES", "e2e-failures"))
_FAILED = pytest.StashKey[bool]()
_NAMESPACES = pytest.StashKey[list[str]]()

OTHER_CLUSTER = os.environ.get("E2E_KUBECONFIG")
# The one is about this machine's own cluster, the other removes every InferenceDeployment that there is.
collect_ignore = ["test_cluster.py", "test_uninstall.py"] if OTHER_CLUSTER else []


@pytest.fixture
def kubectl() -> Kubectl:
    """kubectl of a cluster that is up."""
    if OTHER_CLUSTER is None:
        life.up()
    return Kubectl(obtain_clients().kubectl, Path(OTHER_CLUSTER or KUBECONFIG))


@pytest.fixture
def helm(kubectl: Kubectl, tmp_path: Path) -> Helm:
    return Helm(obtain_clients().helm, tmp_path, kubectl.kubeconfig)


@pytest.fixture
def stageline(helm: Helm) -> None:
    """The operator is installed by the chart and its pods are ready."""
    release.install(helm)


@pytest.fixture
def namespace(request: pytest.FixtureRequest, kubectl: Kubectl) -> str:
    """A namespace of the case's own."""
    return _make_namespace(request, kubectl)


@pytest.fixture
def other_namespace(request: pytest.FixtureRequest, kubectl: Kubectl) -> str:
    """A second one."""
    return _make_namespace(request, kubectl)


def _make_namespace(request: pytest.FixtureRequest, kubectl: Kubectl) -> str:
    name = f"e2e-{uuid4().hex[:8]}"
    kubectl("create", "namespace", name)
    request.node.stash[_NAMESPACES].append(name)
    kubectl("label", "namespace", name, "pod-security.kubernetes.io/enforce=restricted")
    return name


@pytest.fixture(autouse=True)
def end_of_case(request: pytest.FixtureRequest, kubectl: Kubectl) -> Iterator[None]:
    """Keeps what there is to know when the case failed, and removes its namespaces."""
    namespaces = request.node.stash.setdefault(_NAMESPACES, [])
    yield
    if request.node.stash.get(_FAILED, False):
        folder = FAILURES / request.node.name
        shutil.rmtree(folder, ignore_errors=True)
        failure.keep(kubectl, [*namespaces, release.SYSTEM], folder)
    for name in namespaces:
        kubectl("delete", "namespace", name, "--wait=false")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        item.stash[_FAILED] = True
    return report
