"""Gang scheduling by Kubernetes' own scheduler: a pipeline is placed whole or not at all.

It needs a second build of Kubernetes, so it is not part of ``make test``: ``make gang``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml

from support.kube.control_plane import ControlPlane
from support.kube.fake_node import NodeShape
from support.kube.fake_nodes import FakeNodes
from support.kube.flags import GANG_SETTINGS
from support.kube.helm import CHART
from support.kube.verbs import given_rights, used_rights
from support.kube.waiting import wait_until
from support.running.account import chart_rules, user_of
from support.running.scene import Scene, demo
from support.running.survival import heals, uids

DEFINITION = CHART / "files" / "inferencedeployments.yaml"
PODS_OF_A_PIPELINE = 3
GROUPS = "podgroups.scheduling.k8s.io"
AddNode = Callable[[str, str], None]


@pytest.fixture(scope="module")
def plane() -> Iterator[ControlPlane]:
    with ControlPlane(GANG_SETTINGS) as plane:
        plane.api.apply(yaml.safe_load(DEFINITION.read_text()))
        wait_until(lambda: "inferencedeployments" in {name for _, name in plane.api.served()}, "the definition")
        yield plane


@pytest.fixture(scope="module")
def nodes(plane: ControlPlane) -> Iterator[FakeNodes]:
    with FakeNodes(plane) as nodes:
        yield nodes


@pytest.fixture
def add_node(nodes: FakeNodes) -> Iterator[AddNode]:
    """Adds a node with so much CPU, until the test ends: the scheduler knows no others."""
    with ExitStack() as stack:

        def add(name: str, cpu: str) -> None:
            nodes.add_node(name, NodeShape(cpu=cpu))
            stack.callback(nodes.remove_node, name)

        yield add


@pytest.fixture
def scene(plane: ControlPlane, add_node: AddNode, tmp_path: Path) -> Iterator[Scene]:
    """Its resource is gone in the end, before the nodes are."""
    with ExitStack() as stack:
        scene = Scene(plane, plane.create_namespace(), tmp_path, stack)
        yield scene
        if scene.api.find("inferencedeployments", "demo", scene.namespace) is not None:
            scene.delete()
            scene.wait_gone()


def bound_pods(scene: Scene) -> Counter[str]:
    """Number of pods with a node, by pipeline replica; replicas without any are counted, too."""
    counts: Counter[str] = Counter()
    for pod in scene.pods():
        counts[pod["metadata"]["labels"]["stageline.dev/replica"]] += "nodeName" in pod["spec"]
    return counts


def unschedulable_pods(scene: Scene) -> set[str]:
    return {
        pod["metadata"]["name"]
        for pod in scene.pods()
        for condition in pod["status"].get("conditions", [])
        if condition["type"] == "PodScheduled" and condition["status"] == "False"
    }


def test_with_room_for_one_and_a_half_pipelines_one_runs_whole_and_none_in_part(
    scene: Scene, add_node: AddNode
) -> None:
    add_node("small", "300m")  # each stage asks for 100m
    scene.run_operator()
    scene.apply(demo(replicas=2))
    scene.wait(lambda: len(unschedulable_pods(scene)) == PODS_OF_A_PIPELINE, "the scheduler's verdict")
    scene.wait(lambda: scene.resource()["status"].get("ready") == "1/2", "one pipeline to be ready")
    assert sorted(bound_pods(scene).values()) == [0, PODS_OF_A_PIPELINE]
    status = scene.resource()["status"]
    assert status["plan"]["gang"] == "native"
    assert status["reason"] == "WaitingForScheduling"

    add_node("more", "300m")
    scene.wait_phase("Ready")
    assert sorted(bound_pods(scene).values()) == [PODS_OF_A_PIPELINE, PODS_OF_A_PIPELINE]

    scene.change(replicas=1)
    scene.wait(lambda: scene.names(GROUPS) == {"demo-0"}, "the second group to go")


def test_a_pod_that_replaces_another_joins_the_group_of_its_neighbours(scene: Scene, add_node: AddNode) -> None:
    add_node("roomy", "1")
    scene.run_operator()
    scene.apply(demo())
    scene.wait_phase("Ready")
    before = uids(scene)
    heals(scene, "demo-0-s1-0", "demo-0-s1-1")
    del before["demo-0-s1-0"]
    assert before.items() <= uids(scene).items()
    (pod,) = (pod for pod in scene.pods() if pod["metadata"]["name"] == "demo-0-s1-1")
    assert pod["spec"]["schedulingGroup"] == {"podGroupName": "demo-0"}


def test_a_roll_out_makes_each_replica_a_group_of_its_own(scene: Scene, add_node: AddNode) -> None:
    add_node("roomy", "1")
    scene.run_operator()
    scene.apply(demo())
    scene.wait_phase("Ready")
    scene.change(image="stageline/engine:0.2.0", pipeline={"stages": 3})
    scene.wait_phase("Ready")
    scene.wait(lambda: scene.names(GROUPS) == {"demo-1"}, "the old group to go")
    group = scene.api.get(GROUPS, "demo-1", scene.namespace)
    assert group["spec"]["schedulingPolicy"] == {"gang": {"minCount": 4}}
    assert {pod["spec"]["schedulingGroup"]["podGroupName"] for pod in scene.pods()} == {"demo-1"}


def test_a_deleted_resource_leaves_no_group(scene: Scene, add_node: AddNode) -> None:
    """Groups have a finalizer of Kubernetes' own that goes when their last pod has."""
    add_node("roomy", "1")
    scene.run_operator()
    scene.apply(demo())
    scene.wait_phase("Ready")
    assert scene.names(GROUPS) == {"demo-0"}
    scene.delete()
    scene.wait_gone()
    scene.wait(lambda: not scene.names(GROUPS) and not scene.pods(), "pods and group to go", patience=10)


def test_the_charts_role_has_the_rights_for_groups_that_the_operator_uses_and_no_more(
    scene: Scene, add_node: AddNode
) -> None:
    add_node("roomy", "1")
    scene.run_operator()
    scene.apply(demo(replicas=2))
    scene.wait_phase("Ready")
    scene.change(replicas=1)
    scene.wait(lambda: scene.names(GROUPS) == {"demo-0"}, "the second group to go")
    used = used_rights(scene.plane.audit_events(user=user_of(scene.namespace)))
    given = given_rights(chart_rules())
    assert not {each for each in used if each.resource != "leases"} - given, "the Role lacks these"
    about_groups = {each for each in given if (each.group, each.resource) == ("scheduling.k8s.io", "podgroups")}
    assert about_groups and not about_groups - used, "the Role gives these in vain"
