"""A real control plane for the session, with fake nodes; a namespace of its own for each test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml

from support.kube.api import KubeApi
from support.kube.control_plane import ControlPlane
from support.kube.fake_nodes import FakeNodes
from support.kube.verbs import given_rights, used_rights
from support.kube.waiting import wait_until
from support.running.account import ACCOUNT, chart_rules
from support.running.scene import Scene

SHARED_NODES = ("node-a", "node-b", "node-c")
"""Nodes that every test may use and none may change."""


@pytest.fixture(scope="session")
def control_plane() -> Iterator[ControlPlane]:
    with ControlPlane() as plane:
        yield plane
        operators = [user for user in plane.audit.users() if user.endswith(f":{ACCOUNT}")]
        used = used_rights(event for user in operators for event in plane.audit_events(user))
        lacking = {right for right in used - given_rights(chart_rules()) if right.resource != "leases"}
        assert not lacking, f"some test's operator needs what the chart's Role does not give: {sorted(lacking)}"


@pytest.fixture(scope="session")
def nodes(control_plane: ControlPlane) -> Iterator[FakeNodes]:
    with FakeNodes(control_plane) as fake:
        for name in SHARED_NODES:
            fake.add_node(name)
        yield fake


@pytest.fixture
def api(control_plane: ControlPlane) -> KubeApi:
    """Requests as cluster-admin."""
    return control_plane.api


@pytest.fixture
def namespace(control_plane: ControlPlane) -> Iterator[str]:
    """A new namespace that enforces the restricted Pod Security Standard; its deletion is not waited for."""
    name = control_plane.create_namespace()
    yield name
    control_plane.api.delete("namespaces", name)


CRD = Path(__file__).parents[2] / "crds/inferencedeployments.stageline.dev.yaml"


@pytest.fixture(scope="session")
def definition(control_plane: ControlPlane) -> None:
    """The CustomResourceDefinition is there and served."""
    control_plane.api.apply(yaml.safe_load(CRD.read_text()))

    def is_served() -> bool:
        body = control_plane.api.get("customresourcedefinitions", "inferencedeployments.stageline.dev")
        conditions = body.get("status", {}).get("conditions") or []
        return any(each["type"] == "Established" and each["status"] == "True" for each in conditions)

    wait_until(is_served, "the definition to be served")


@pytest.fixture
def scene(
    control_plane: ControlPlane, nodes: FakeNodes, definition: None, namespace: str, tmp_path: Path
) -> Iterator[Scene]:
    """A namespace where operators can be run."""
    with ExitStack() as stack:
        yield Scene(control_plane, namespace, tmp_path, stack)
