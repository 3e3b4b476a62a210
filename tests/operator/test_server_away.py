"""The API server or its etcd goes away and comes back: nothing that runs is touched, and work goes on afterwards."""

from __future__ import annotations

from support.running.operator_process import OperatorProcess
from support.running.scene import Scene, demo


def uids(scene: Scene) -> dict[str, str]:
    return {pod["metadata"]["name"]: pod["metadata"]["uid"] for pod in scene.pods()}


def goes_on(scene: Scene, operator: OperatorProcess, before: dict[str, str]) -> None:
    """The same pods are there, and what is asked for now is done."""
    operator.wait_leading()
    assert uids(scene) == before
    scene.change(replicas=2)
    scene.wait(lambda: scene.resource()["status"].get("ready") == "2/2", "the next change", patience=120)
    assert before.items() <= uids(scene).items()


def test_the_api_server_is_restarted(scene: Scene) -> None:
    operator = scene.run_operator()
    scene.apply(demo())
    scene.wait_phase("Ready")
    before = uids(scene)
    scene.plane.restart_api()
    goes_on(scene, operator, before)


def test_etcd_is_gone_for_longer_than_the_lease(scene: Scene) -> None:
    operator = scene.run_operator()
    scene.apply(demo())
    scene.wait_phase("Ready")
    before = uids(scene)
    with scene.plane.etcd_stopped():
        assert_gives_up_the_lease(scene, operator)
    goes_on(scene, operator, before)


def test_an_api_server_that_answers_nothing_ends_the_leader(scene: Scene) -> None:
    operator = scene.run_operator()
    scene.apply(demo())
    scene.wait_phase("Ready")
    before = uids(scene)
    with scene.plane.api_frozen():
        assert_gives_up_the_lease(scene, operator)
    goes_on(scene, operator, before)


def assert_gives_up_the_lease(scene: Scene, operator: OperatorProcess) -> None:
    """What is asked of the API server meanwhile would fail: only the process is looked at."""
    operator.wait_exits(1)
    assert operator.exits[0] == 1
    assert "no renewal of lease" in operator.log.read_text()
