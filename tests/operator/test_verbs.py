"""The chart's Role holds exactly the rights that the operator uses: no verb too few, and none too many."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml

from support.kube.api import KubeApi, Object
from support.kube.control_plane import ControlPlane
from support.kube.fake_nodes import FakeNodes
from support.kube.helm import CHART
from support.kube.verbs import Right, given_rights, used_rights
from support.kube.waiting import wait_until
from support.running.account import chart_rules, user_of
from support.running.scene import MANAGED, Scene, demo

FOREIGN_KINDS = {
    "podmonitors.monitoring.coreos.com": ("v1", "PodMonitor"),
    "podgroups.scheduling.volcano.sh": ("v1beta1", "PodGroup"),
    "podgroups.scheduling.x-k8s.io": ("v1alpha1", "PodGroup"),
}
"""What clusters may have besides Kubernetes: name of the definition → version and kind."""

BLOCK_OWNER_DELETION = Right("stageline.dev", "inferencedeployments/finalizers", "update")
"""Checked by an admission plug-in; no request ever names it."""


@pytest.fixture(scope="module")
def plane() -> Iterator[ControlPlane]:
    """A control plane of its own: definitions of gang schedulers would change what other tests' operators do."""
    with ControlPlane() as plane, FakeNodes(plane) as nodes:
        nodes.add_node("node-a")
        plane.api.apply(yaml.safe_load((CHART / "files" / "inferencedeployments.yaml").read_text()))
        for name, (version, kind) in FOREIGN_KINDS.items():
            plane.api.apply(anything(name, version, kind))
        for name in ("inferencedeployments.stageline.dev", *FOREIGN_KINDS):
            wait_until(lambda name=name: is_served(plane.api, name), f"{name} to be served")  # type: ignore[misc]
        yield plane


def anything(name: str, version: str, kind: str) -> Object:
    """A definition that accepts objects with any content."""
    plural, _, group = name.partition(".")
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": name,
            # Groups that end in k8s.io are Kubernetes' own, and ask for this.
            "annotations": {"api-approved.kubernetes.io": "unapproved, a stand-in for tests"},
        },
        "spec": {
            "group": group,
            "names": {"plural": plural, "kind": kind, "singular": kind.lower(), "listKind": f"{kind}List"},
            "scope": "Namespaced",
            "versions": [{"name": version, "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}],
        },
    }


def is_served(api: KubeApi, name: str) -> bool:
    conditions = api.get("customresourcedefinitions", name).get("status", {}).get("conditions") or []
    return any(each["type"] == "Established" and each["status"] == "True" for each in conditions)


def leave_behind(scene: Scene, resource: str) -> str:
    """A copy of a child that nothing asks for, as an older operator might have left it."""
    child = scene.api.list(resource, scene.namespace, MANAGED)[0]
    stray = copy.deepcopy(child)
    meta = {key: child["metadata"][key] for key in ("labels", "ownerReferences", "namespace")}
    stray["metadata"] = {**meta, "name": "left-behind"}
    stray.pop("status", None)
    if resource == "services":
        stray["spec"] = {"ports": stray["spec"]["ports"], "selector": stray["spec"]["selector"], "clusterIP": "None"}
    scene.api.create(stray)
    return "left-behind"


def live_through_everything(scene: Scene) -> None:
    """What makes an operator use each of its rights."""
    for gang in ("coscheduling", "volcano"):
        # Volcano's own scheduler is not here; coscheduling's is played by the one that is.
        scheduler = {"schedulerName": "default-scheduler"} if gang == "coscheduling" else {}
        scene.apply(demo(gang, scheduling={"gang": gang, **scheduler}, rollout={"revisionHistory": 1}))
    scene.apply(demo())
    scene.wait_phase("Ready", "coscheduling")
    children = [
        "services",
        "serviceaccounts",
        "poddisruptionbudgets",
        "networkpolicies",
        "podmonitors.monitoring.coreos.com",
        "podgroups.scheduling.volcano.sh",
        "podgroups.scheduling.x-k8s.io",
    ]
    for resource in children:
        scene.wait(lambda resource=resource: scene.names(resource), f"{resource}")  # type: ignore[misc]
        name = leave_behind(scene, resource)
        scene.wait(lambda r=resource, n=name: n not in scene.names(r), f"{resource}/{name} to go")  # type: ignore[misc]
    # An Event that repeats: the same stage ends twice.
    for incarnation in (0, 1):
        pod = f"coscheduling-0-s0-{incarnation}"
        scene.wait(lambda pod=pod: pod in scene.names("pods"), pod)  # type: ignore[misc]
        scene.api.delete("pods", pod, scene.namespace)
    # One earlier revision is kept: the first is deleted with the second change.
    for image in ("stageline/engine:0.2.0", "stageline/engine:0.3.0"):
        scene.change("coscheduling", image=image)
        scene.wait_phase("Ready", "coscheduling")


def test_the_chart_gives_the_operator_the_rights_that_it_uses_and_no_more(plane: ControlPlane, tmp_path: Path) -> None:
    with ExitStack() as stack:
        scene = Scene(plane, plane.create_namespace(), tmp_path, stack)
        scene.run_operator()
        live_through_everything(scene)
        used = used_rights(plane.audit_events(user=user_of(scene.namespace)))
        # The Lease has a Role of its own.
        used = {each for each in used if each.resource != "leases"} | {BLOCK_OWNER_DELETION}
        served = plane.api.served() | {BLOCK_OWNER_DELETION[:2]}
        given = {each for each in given_rights(chart_rules()) if each[:2] in served}
        assert not used - given, "the Role lacks these"
        assert not given - used, "the Role gives these in vain"
