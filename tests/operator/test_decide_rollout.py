"""How a change reaches the replicas: what is created and drained, in which order, and when it stops."""

from __future__ import annotations

from typing import Any

import pytest

from support.operator import pods as pod_states
from support.operator.invariants import ready_replicas
from support.operator.simulation import Simulation, settled

NEW = "example/stageline:2"


def _history(simulation: Simulation) -> list[str]:
    """Run to the end; which replicas were made (+), became ready (*), were drained (-), in order."""
    told = {"ReplicaCreated": "+", "ReplicaReady": "*", "ReplicaDraining": "-"}
    before = len(simulation.events)
    simulation.settle()
    return [
        f"{told[event.reason.value]}{event.message.split()[1]}"
        for event in simulation.events[before:]
        if event.reason.value in told
    ]


def _rolled(replicas: int, surge: int, unavailable: int) -> list[str]:
    simulation = settled(replicas=replicas, rollout={"maxSurge": surge, "maxUnavailable": unavailable})
    simulation.change(image=NEW)
    return _history(simulation)


@pytest.mark.parametrize(
    ("replicas", "surge", "unavailable", "expected"),
    [
        (1, 1, 0, "+1 -0 *1"),
        (2, 1, 0, "+2 -1 *2 +3 -0 *3"),
        (1, 0, 1, "-0 +1 *1"),
        (2, 0, 1, "-1 +2 -0 *2 +1 *1"),
        (2, 2, 0, "+2 +3 -0 -1 *2 *3"),
        (3, 1, 1, "+3 -2 +4 -1 *3 +2 -0 *4 *2"),
    ],
)
def test_a_roll_out_goes_replica_by_replica(replicas: int, surge: int, unavailable: int, expected: str) -> None:
    assert " ".join(_rolled(replicas, surge, unavailable)) == expected


@pytest.mark.parametrize("surge", [0, 1])
def test_the_end_of_a_roll_out_is_told_once(surge: int) -> None:
    simulation = settled(replicas=2, rollout={"maxSurge": surge, "maxUnavailable": 1 - surge})
    simulation.change(image=NEW)
    simulation.settle()
    simulation.change(replicas=3)
    simulation.settle()
    assert [event.reason.value for event in simulation.events].count("RolloutComplete") == 1


@pytest.mark.parametrize(
    "change",
    [
        {"image": NEW},
        {"model": {"source": "hf://org/other"}},
        {"pipeline": {"stages": 3}},
        {"pipeline": {"stages": 2, "layerSplit": [20, 10]}},
        {"pipeline": {"stages": 2, "stageDefaults": {"tensorParallel": 2, "resources": {"limits": {"cpu": 4}}}}},
        {"engine": {"maxNumSeqs": 8}},
        {"podTemplate": {"labels": {"team": "a"}}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_everything_that_pods_depend_on_is_the_same_operation(change: dict[str, Any]) -> None:
    simulation = settled()
    simulation.change(**change)
    assert _history(simulation) == ["+1", "-0", "*1"]


@pytest.mark.parametrize(
    "change",
    [{"restart": {"backoffSeconds": 9}}, {"network": {"port": 80}}, {"rollout": {"maxSurge": 3}}, {"replicas": 1}],
    ids=lambda change: next(iter(change)),
)
def test_what_no_pod_depends_on_rolls_nothing(change: dict[str, Any]) -> None:
    simulation = settled()
    simulation.change(**change)
    assert _history(simulation) == []


def test_the_newest_go_first_when_scaled_down() -> None:
    simulation = settled(replicas=3)
    simulation.now += 60
    simulation.change(replicas=5)
    simulation.settle()
    simulation.change(replicas=2)
    assert _history(simulation) == ["-2", "-3", "-4"]


def test_one_that_does_not_serve_goes_before_the_newest() -> None:
    simulation = settled(replicas=3)
    simulation.set_pod(pod_states.failed(simulation.pods["demo-0-head-0"], simulation.now, "Evicted"))
    simulation.change(replicas=2)
    assert _history(simulation) == ["-0"]


def test_a_replica_is_drained_head_first_and_its_objects_go_when_its_last_pod_has_gone() -> None:
    simulation = settled(replicas=2)
    simulation.stopped_nodes.add(simulation.pods["demo-1-s1-0"].node)
    simulation.change(replicas=1)
    deleted = [action.ref.name for action in simulation.reconcile().actions if hasattr(action, "ref")]
    assert deleted == ["demo-1-head-0", "demo-1-s0-0", "demo-1-s1-0"]
    for _ in range(3):
        simulation.advance()
        simulation.reconcile()
    assert [name for name in simulation.pods if name.startswith("demo-1")] == ["demo-1-s1-0"]
    assert ("NetworkPolicy", "demo-1") in simulation.children, "what is left of it is still protected"
    simulation.settle()
    assert ("NetworkPolicy", "demo-1") not in simulation.children


def test_a_number_is_not_used_again_while_something_carries_it() -> None:
    simulation = settled(replicas=2)
    simulation.stopped_nodes.add(simulation.pods["demo-1-s1-0"].node)
    simulation.change(replicas=1)
    simulation.reconcile()
    simulation.change(replicas=2)
    assert _history(simulation)[0] == "+2"


def test_paused_keeps_both_revisions_and_goes_on_scaling_and_healing_the_old_one() -> None:
    simulation = settled(replicas=2)
    simulation.change(image=NEW, rollout={"paused": True}, replicas=3)
    assert _history(simulation) == ["+2", "*2"]
    status = simulation.body["status"]
    assert (status["phase"], status["reason"], status["updatedReplicas"]) == ("Paused", "RolloutPaused", 0)
    simulation.set_pod(pod_states.failed(simulation.pods["demo-0-s0-0"], simulation.now, "Evicted"))
    simulation.settle()
    assert {pod.revision for pod in simulation.pods.values()} == {status["replicaList"][0]["revision"]}
    simulation.change(rollout={"paused": False})
    simulation.settle()
    assert simulation.body["status"]["updatedReplicas"] == 3


def test_a_change_back_in_the_middle_drains_the_new_replica_and_keeps_the_old_ones() -> None:
    simulation = settled(replicas=2)
    old = {name: pod.uid for name, pod in simulation.pods.items()}
    simulation.change(image=NEW)
    simulation.reconcile()
    simulation.advance()
    simulation.reconcile()
    simulation.change(image="example/stageline:1")
    assert _history(simulation) == ["-2"]
    assert {name: pod.uid for name, pod in simulation.pods.items()} == old


def _with_a_new_revision_that_fails(**spec: Any) -> Simulation:
    """The engine of the new revision refuses its arguments, each time it starts."""
    simulation = settled(**spec)
    simulation.change(image=NEW)
    old = simulation.body["status"]["currentRevision"]
    for _ in range(600):
        for pod in list(simulation.pods.values()):
            if pod.revision != old and pod.phase == "Running" and pod.gone_at is None and pod.stage == 0:
                simulation.set_pod(pod_states.restarted(pod, 2, simulation.now, log="no such flag"))
        if not simulation.step():
            return simulation
    raise AssertionError("no rest")


def test_a_roll_out_stops_when_a_new_replica_failed_and_the_old_ones_keep_serving() -> None:
    simulation = _with_a_new_revision_that_fails(replicas=2)
    assert ready_replicas(simulation.pods.values()) == {0, 1}
    status = simulation.body["status"]
    by_type = {condition["type"]: condition for condition in status["conditions"]}
    assert by_type["Available"]["status"] == "True"
    assert by_type["Progressing"]["reason"] == "RolloutStopped"
    assert by_type["Degraded"]["status"] == "True"
    assert "the old ones keep serving" in by_type["Degraded"]["message"]
    assert (status["phase"], status["reason"]) == ("Degraded", "RolloutStopped")
    assert "change the spec to try again" in by_type["Progressing"]["message"]
    assert status["lastFailure"]["logTail"] == "no such flag"
    simulation.now += 100_000
    assert simulation.decide().actions == ()


def test_a_roll_out_that_stopped_for_a_while_says_when_it_tries_again() -> None:
    simulation = settled(restart={"backoffSeconds": 60, "replicaDeadlineSeconds": 700})
    old = simulation.body["status"]["currentRevision"]
    simulation.change(image=NEW)
    for _ in range(200):
        for pod in simulation.pods.values():
            if pod.revision != old and pod.scheduled_at is not None and not pod.ready:
                simulation.stopped_nodes.add(pod.node)
        status = simulation.body["status"]
        if status["reason"] == "RolloutStopped":
            break
        simulation.step()
    failed = next(entry for entry in status["replicaList"] if entry["phase"] == "Failed")
    assert failed["nextRestart"] in status["conditions"][1]["message"]
    assert "change the spec" not in status["conditions"][1]["message"]


def test_a_roll_out_that_stopped_goes_on_with_the_next_change() -> None:
    simulation = _with_a_new_revision_that_fails(replicas=2)
    simulation.change(image="example/stageline:3")
    simulation.settle()
    assert simulation.body["status"]["phase"] == "Ready"
    assert simulation.body["status"]["updatedReplicas"] == 2


def test_a_roll_out_may_leave_as_many_missing_as_it_says_and_no_more_when_it_fails() -> None:
    simulation = _with_a_new_revision_that_fails(replicas=3, rollout={"maxSurge": 0, "maxUnavailable": 1})
    assert len(ready_replicas(simulation.pods.values())) == 2


def test_a_replica_of_an_old_revision_is_healed_from_its_own_revision() -> None:
    simulation = settled(replicas=2)
    simulation.change(pipeline={"stages": 3}, rollout={"paused": True})
    simulation.settle()
    simulation.set_pod(pod_states.failed(simulation.pods["demo-0-s1-0"], simulation.now, "Evicted"))
    simulation.settle()
    arguments = simulation.bodies["demo-0-s1-1"]["spec"]["containers"][0]["args"]
    assert "--stage=1" in arguments
    assert "demo-0-s2-0" not in simulation.pods


def test_a_replica_whose_revision_nobody_knows_any_more_is_replaced_and_never_mixed() -> None:
    simulation = settled()
    simulation.change(image=NEW, rollout={"paused": True})
    simulation.settle()
    old = next(key for key in simulation.children if key[0] == "ControllerRevision" and "-89a715648e" in key[1])
    del simulation.children[old]
    simulation.set_pod(pod_states.failed(simulation.pods["demo-0-s0-0"], simulation.now, "Evicted"))
    simulation.settle()
    assert "demo-0-s0-1" not in simulation.pods
    simulation.change(rollout={"paused": False})
    simulation.settle()
    assert simulation.body["status"]["phase"] == "Ready"


def test_so_many_earlier_revisions_are_kept_as_the_spec_says() -> None:
    simulation = settled(rollout={"revisionHistory": 2})
    for tag in range(2, 7):
        simulation.change(image=f"example/stageline:{tag}")
        simulation.settle()
    kept = [child for child in simulation.children.values() if child.kind == "ControllerRevision"]
    images = sorted(child.body["data"]["content"].split('"image":"')[1].split('"')[0] for child in kept)
    assert images == ["example/stageline:4", "example/stageline:5", "example/stageline:6"]
