"""An operator of all namespaces: it serves each, another takes over, and one of a single namespace is no enemy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml

from support.kube.api import Object
from support.kube.control_plane import ControlPlane
from support.kube.fake_nodes import FakeNodes
from support.kube.helm import CHART
from support.kube.waiting import wait_until
from support.running.account import make_cluster_wide
from support.running.operator_process import OperatorProcess
from support.running.scene import Scene, demo
from support.running.survival import settled_writes, uids

NewScene = Callable[[], Scene]


@pytest.fixture(scope="module")
def plane() -> Iterator[ControlPlane]:
    """A control plane of its own: such an operator would serve the namespaces of other tests, too."""
    with ControlPlane() as plane, FakeNodes(plane) as nodes:
        nodes.add_node("node-a")
        plane.api.apply(yaml.safe_load((CHART / "files" / "inferencedeployments.yaml").read_text()))
        wait_until(lambda: "inferencedeployments" in {name for _, name in plane.api.served()}, "the definition")
        yield plane


@pytest.fixture
def new_scene(plane: ControlPlane, tmp_path: Path) -> Iterator[NewScene]:
    """Makes a namespace."""
    with ExitStack() as stack:

        def make() -> Scene:
            namespace = plane.create_namespace()
            folder = tmp_path / namespace
            folder.mkdir()
            stack.callback(plane.api.delete, "namespaces", namespace)
            return Scene(plane, namespace, folder, stack)

        yield make


def ready(scene: Scene, replicas: int) -> Callable[[], bool]:
    return lambda: bool(scene.resource()["status"].get("ready") == f"{replicas}/{replicas}")


def cluster_wide(home: Scene) -> tuple[OperatorProcess, OperatorProcess]:
    """Two of them; the first leads."""
    make_cluster_wide(home.plane, home.namespace)
    first = home.start_cluster_wide("first")
    first.wait_leading()
    second = home.start_cluster_wide("second")
    second.wait_ready()
    return first, second


def test_every_namespace_is_served_and_another_operator_takes_over(new_scene: NewScene) -> None:
    home, one, other = new_scene(), new_scene(), new_scene()
    first, second = cluster_wide(home)
    for scene in (one, other):
        scene.apply(demo())
    for scene in (one, other):
        scene.wait_phase("Ready")
    before = uids(one), uids(other)
    first.kill()
    second.wait_leading()
    other.change(replicas=2)
    other.wait(ready(other, 2), "the second operator to work")
    assert uids(one) == before[0] and before[1].items() <= uids(other).items()
    assert second.exits == []


def test_an_operator_of_one_namespace_beside_it_ends_in_the_same_and_both_rest(new_scene: NewScene) -> None:
    """Two releases that overlap are a mistake of a person's: pods must not pay for it."""
    home, scene = new_scene(), new_scene()
    first, _ = cluster_wide(home)
    beside = scene.run_operator(name="beside")
    scene.apply(demo())
    scene.wait_phase("Ready")
    assert sorted(uids(scene)) == ["demo-0-head-0", "demo-0-s0-0", "demo-0-s1-0"]
    scene.change(replicas=2)
    scene.wait(ready(scene, 2), "the second replica")
    scene.api.delete("pods", "demo-0-s1-0", scene.namespace, grace=0)
    scene.wait(lambda: "demo-0-s1-1" in scene.names("pods"), "the lost pod to be replaced")
    scene.wait_phase("Ready")
    settled_writes(scene)
    settled_writes(home)
    before = len(scene.writes()), len(home.writes())
    label: Object = {"metadata": {"labels": {"example.com/resync": "1"}}}
    scene.api.patch("inferencedeployments", "demo", label, scene.namespace)
    settled_writes(scene, seconds=5)
    assert (len(scene.writes()), len(home.writes())) == before
    assert len(uids(scene)) == 6
    assert first.is_leading() and beside.is_leading()
    assert first.exits == beside.exits == []
