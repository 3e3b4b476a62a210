"""Troubles that take a while, all at the same time on one real control plane: a lost node, a roll-out that waits or
fails, a pod that fails for ever, a flood of news."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from datetime import datetime
from pathlib import Path

import pytest

from stageline_operator.api.constants import LABEL_ROLE, LABEL_STAGE, ROLE_HEAD
from stageline_operator.apply.events import BURST, REFILL_SECONDS
from support.kube.api import Object
from support.kube.behaviour import READY, Behaviour, Script
from support.kube.control_plane import ControlPlane
from support.kube.fake_node import NodeShape
from support.kube.fake_nodes import FakeNodes
from support.running.scene import Scene, demo, scene_of_its_own
from support.running.survival import uids
from support.running.together import played_together

OLD, NEW = "stageline/engine:0.1.0", "stageline/engine:0.2.0"
KUBELET_SECONDS = 3.0
"""Between a container's end and its next start: a real kubelet waits 10 s, and longer each time."""
RESTARTS = 6
CHANGES = 40


def condition(scene: Scene, kind: str) -> Object:
    conditions: list[Object] = scene.resource()["status"]["conditions"]
    return next(each for each in conditions if each["type"] == kind)


def images(scene: Scene) -> set[str]:
    return {pod["spec"]["containers"][0]["image"] for pod in scene.pods()}


def seconds_between(first: Object, last: Object) -> float:
    """Of two audit events."""
    times = [datetime.fromisoformat(each["requestReceivedTimestamp"]) for each in (first, last)]
    return (times[1] - times[0]).total_seconds()


def with_a_stage_that_fails(image: str, log: str = "") -> Script:
    """Exit code 1 after each start; the head is not ready, since no token comes through."""

    def play(pod: Object, restarts: int) -> Behaviour:
        labels = pod["metadata"]["labels"]
        if pod["spec"]["containers"][0]["image"] != image or labels.get(LABEL_STAGE) == "0":
            return READY
        if labels[LABEL_ROLE] == ROLE_HEAD:
            return Behaviour(ready_after=None)
        return Behaviour(starts_after=KUBELET_SECONDS if restarts else 0.0, ends_after=0.1, ready_after=None, log=log)

    return play


def a_node_is_lost(scene: Scene, nodes: FakeNodes) -> None:
    """Its pod comes back elsewhere at once, and is removed by force when nobody says that it has ended."""
    far = {"far": scene.namespace}
    taint = {"key": "far", "value": scene.namespace, "effect": "NoSchedule"}
    names = [f"far-{number}-{scene.namespace}" for number in range(2)]
    for name in names:
        nodes.add_node(name, NodeShape(labels=far, taints=[taint]))
    there = {"nodeSelector": far, "tolerations": [{"key": "far", "operator": "Exists"}]}
    resources = demo()["spec"]["pipeline"]["stageDefaults"]["resources"]
    scene.run_operator()
    scene.apply(
        demo(
            pipeline={"stageDefaults": {"resources": resources}, "stageList": [{}, there]},
            engine={"device": "cpu", "drainTimeout": 0},
            restart={"nodeLostSeconds": 0},
        )
    )
    scene.wait_phase("Ready")
    before = uids(scene)
    lost = scene.api.get("pods", "demo-0-s1-0", scene.namespace)["spec"]["nodeName"]
    nodes.lose_node(lost)
    scene.wait(lambda: "demo-0-s1-1" in scene.names("pods"), "the next incarnation")

    def successor() -> Object | None:
        stage: Object = scene.resource()["status"]["replicaList"][0]["stages"][1]
        return stage if stage.get("pod") == "demo-0-s1-1" and stage["ready"] else None

    assert scene.wait(successor, "it to be ready")["node"] == next(name for name in names if name != lost)
    stuck = scene.api.get("pods", "demo-0-s1-0", scene.namespace)
    assert "deletionTimestamp" in stuck["metadata"]
    # A person is impatient with it; half a minute of grace would be waited for as well.
    scene.api.delete("pods", "demo-0-s1-0", scene.namespace, grace=1)
    scene.wait(
        lambda: scene.api.find("pods", "demo-0-s1-0", scene.namespace) is None, "the stuck pod to be removed by force"
    )
    forced = [event for event in scene.writes() if event["verb"] == "delete"]
    assert [event["objectRef"]["name"] for event in forced] == ["demo-0-s1-0"]
    assert before.items() - uids(scene).items() == {("demo-0-s1-0", before["demo-0-s1-0"])}
    for name in names:
        nodes.remove_node(name)


def a_roll_out_is_paused(scene: Scene, nodes: FakeNodes) -> None:
    scene.run_operator()
    scene.apply(demo(rollout={"paused": True}))
    before = scene.wait_phase("Ready")["status"]["currentRevision"]
    pods = uids(scene)
    scene.change(image=NEW)
    status = scene.wait_phase("Paused")["status"]
    assert (status["reason"], status["updatedReplicas"]) == ("RolloutPaused", 0)
    assert status["currentRevision"] != before
    # What else befalls it is answered meanwhile, from the old revision.
    scene.api.delete("pods", "demo-0-s1-0", scene.namespace, grace=0)
    scene.wait(lambda: "demo-0-s1-1" in scene.names("pods"), "the next incarnation")
    assert images(scene) == {OLD}
    assert uids(scene)["demo-0-head-0"] == pods["demo-0-head-0"]
    scene.change(rollout={"paused": False})
    scene.wait_phase("Ready")
    scene.wait(lambda: images(scene) == {NEW}, "the roll-out to be made")


def a_roll_out_fails(scene: Scene, nodes: FakeNodes) -> None:
    """Exit code 2: the new image refuses its arguments. The old replicas serve on, and the way back is free."""

    def play(pod: Object, restarts: int) -> Behaviour:
        is_new = pod["spec"]["containers"][0]["image"] == NEW
        return Behaviour(ends_after=0.1, ready_after=None, exit_code=2, log="no such flag") if is_new else READY

    nodes.play(scene.namespace, play)
    scene.run_operator()
    scene.apply(demo(replicas=2))
    scene.wait_phase("Ready")
    before = uids(scene)
    scene.change(image=NEW)
    scene.wait(lambda: condition(scene, "Degraded")["reason"] == "RolloutStopped", "the roll-out to stop")
    scene.wait(lambda: uids(scene) == before, "what was tried to go, and the old replicas alone to stay")
    body = scene.resource()["status"]
    assert (body["phase"], body["ready"], body["updatedReplicas"]) == ("Degraded", "2/2", 0)
    told = condition(scene, "Degraded")["message"]
    assert "the old ones keep serving" in told and "Configuration" in told and "exit code 2" in told
    assert body["lastFailure"]["exitCode"] == 2 and "no such flag" in body["lastFailure"]["logTail"]
    scene.change(image=OLD)
    scene.wait_phase("Ready")
    assert uids(scene) == before


def a_pod_fails_until_its_budget_is_used_up(scene: Scene, nodes: FakeNodes) -> None:
    """Exit code 1 again and again: in the end nothing more is tried until the spec changes."""

    nodes.play(scene.namespace, with_a_stage_that_fails(OLD, log="out of luck"))
    scene.run_operator()
    scene.apply(demo(restart={"budget": {"crash": 2}}))
    status = scene.wait_phase("Failed")["status"]
    degraded = condition(scene, "Degraded")
    assert degraded["reason"] == "RestartBudgetExhausted"
    assert "spec.restart.budget" in degraded["message"]
    assert (status["lastFailure"]["exitCode"], status["lastFailure"]["logTail"]) == (1, "out of luck")
    scene.wait(lambda: not scene.pods(), "the pods to go")
    scene.change(image=NEW)
    scene.wait_phase("Ready")


def a_pod_fails_for_ever(scene: Scene, nodes: FakeNodes) -> None:
    """Its budget is large: the operator writes at most once a second, however long that goes on."""

    def restarts() -> int:
        pod = scene.api.get("pods", "demo-0-s1-0", scene.namespace)
        return sum(each["restartCount"] for each in pod.get("status", {}).get("containerStatuses", []))

    nodes.play(scene.namespace, with_a_stage_that_fails(OLD))
    scene.run_operator()
    scene.apply(demo(restart={"budget": {"crash": 1000}}))
    scene.wait(lambda: "demo-0-s1-0" in scene.names("pods") and restarts() >= 1, "the first failure")
    already = len(scene.writes())
    scene.wait(lambda: restarts() >= RESTARTS, "many failures")
    writes = scene.writes()[already:]
    scene.wait(lambda: (used := scene.resource()["status"]["replicaList"][0].get("restarts")) and used, "the books")
    assert len(writes) >= RESTARTS - 2, "failures are told"
    assert len(writes) <= 1 + seconds_between(writes[0], writes[-1]), [
        (each["verb"], each["objectRef"]) for each in writes
    ]


def a_flood_of_news(scene: Scene, nodes: FakeNodes) -> None:
    """A head that is ready and is not, in turn: the status follows, and Events end at the limit."""
    scene.run_operator()
    scene.apply(demo())
    scene.wait_phase("Ready")

    def is_available(wanted: bool) -> Callable[[], bool]:
        return lambda: bool(condition(scene, "Available")["status"] == str(wanted))

    for number in range(CHANGES):
        is_ready = number % 2 == 1
        nodes.set_ready(scene.namespace, "demo-0-head-0", is_ready)
        scene.wait(is_available(is_ready), f"change {number} to be told")
    writes = scene.writes()
    sent = [each for each in writes if each["objectRef"]["resource"] == "events"]
    assert BURST <= len(sent) <= BURST + 1 + seconds_between(writes[0], writes[-1]) / REFILL_SECONDS


SCENES = {
    "a node is lost": a_node_is_lost,
    "a roll-out is paused": a_roll_out_is_paused,
    "a roll-out fails": a_roll_out_fails,
    "a pod fails until its budget is used up": a_pod_fails_until_its_budget_is_used_up,
    "a pod fails for ever": a_pod_fails_for_ever,
    "a flood of news": a_flood_of_news,
}


@pytest.fixture(scope="module")
def played(
    control_plane: ControlPlane, nodes: FakeNodes, definition: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[None]]]:
    """All scenes at the same time, by name: each mostly waits."""

    def play(name: str, folder: Path) -> None:
        with scene_of_its_own(control_plane, folder) as scene:
            SCENES[name](scene, nodes)

    with played_together(SCENES, play, tmp_path_factory.mktemp("scenes")) as outcomes:
        yield outcomes


@pytest.mark.parametrize("name", SCENES)
def test_the_operator_does_what_is_promised(played: dict[str, Future[None]], name: str) -> None:
    played[name].result()
