"""What the status says, and what an Event tells: the truth, once, in few bytes."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from stageline_operator.api.errors import SpecError
from stageline_operator.api.state import HeadState
from stageline_operator.api.status import InferenceDeploymentStatus
from stageline_operator.decide.actions import EmitEvent, WriteStatus
from stageline_operator.decide.invalid import decide_invalid, decide_invalid_deletion
from stageline_operator.decide.observed import HeadAnswer, Stranger, Stray
from stageline_operator.decide.reconcile import decide
from stageline_operator.plan.spec import read_spec, read_status
from support.operator import pods as pod_states
from support.operator.simulation import Simulation, acts, resource, settled


def _conditions(simulation: Simulation) -> dict[str, tuple[str, str]]:
    return {
        each["type"]: (each["status"], each["reason"])
        for each in simulation.body["status"]["conditions"]
        if each["observedGeneration"] == simulation.body["metadata"]["generation"]
    }


def test_a_ready_resource_says_so() -> None:
    simulation = settled(replicas=2)
    status = simulation.body["status"]
    assert (status["phase"], status["ready"], status["reason"]) == ("Ready", "2/2", "UpToDate")
    assert (status["replicas"], status["readyReplicas"], status["updatedReplicas"]) == (2, 2, 2)
    assert status["selector"] == "stageline.dev/name=demo,stageline.dev/role=head"
    assert _conditions(simulation) == {
        "Available": ("True", "ReplicasReady"),
        "Progressing": ("False", "UpToDate"),
        "Degraded": ("False", "NoGangScheduler"),
    }


def test_scaled_to_zero_is_ready_and_not_available() -> None:
    simulation = settled(replicas=0)
    assert simulation.body["status"]["phase"] == "Ready"
    assert _conditions(simulation)["Available"] == ("False", "ScaledToZero")


def test_a_condition_keeps_its_time_while_its_status_stays() -> None:
    simulation = settled()
    before = {each["type"]: each["lastTransitionTime"] for each in simulation.body["status"]["conditions"]}
    simulation.now += 500
    simulation.change(replicas=2)
    simulation.settle()
    after = {each["type"]: each["lastTransitionTime"] for each in simulation.body["status"]["conditions"]}
    assert after["Available"] == before["Available"]
    assert after["Progressing"] > before["Progressing"]


def test_each_pod_is_named_with_its_node_and_since_when_it_is_ready() -> None:
    (replica,) = settled().body["status"]["replicaList"]
    assert (replica["phase"], replica["epoch"]) == ("Ready", 1)
    assert [stage["pod"] for stage in replica["stages"]] == ["demo-0-s0-0", "demo-0-s1-0"]
    for pod in (replica["head"], *replica["stages"]):
        assert pod["ready"] and pod["node"] and pod["readySince"]


def test_the_plan_has_the_layers_that_the_engine_chose_and_keeps_them_when_no_head_answers() -> None:
    simulation = settled()
    head = simulation.pods["demo-0-head-0"]
    stages = [
        {"stage": number, "pod": "", "state": "member", "layers": layers, "tensor_parallel": 1}
        for number, layers in enumerate(([0, 19], [19, 30]))
    ]
    said = {"epoch": 1, "ready": True, "draining": False, "stages": stages, "settings": {"max_num_seqs": 64}}
    state = HeadState.model_validate_json(json.dumps(said))
    answers = {0: HeadAnswer(0, head.uid, simulation.now, state, "")}
    for heads in (answers, {}):
        observed = replace(simulation.observed(), heads=heads)
        for action in decide(read_spec(simulation.body), simulation.plan(), observed, simulation.now).actions:
            simulation.do(action)
        plan = simulation.body["status"]["plan"]
        assert [stage["layers"] for stage in plan["stageList"]] == ["0-19", "19-30"]


def _with_settings(simulation: Simulation, **settings: Any) -> None:
    head = simulation.pods["demo-0-head-0"]
    state = HeadState(epoch=1, ready=True, draining=False, stages=(), settings=settings)
    observed = replace(simulation.observed(), heads={0: HeadAnswer(0, head.uid, simulation.now, state, "")})
    for action in decide(read_spec(simulation.body), simulation.plan(), observed, simulation.now).actions:
        simulation.do(action)


def test_every_field_of_the_spec_is_echoed_with_the_value_in_force() -> None:
    simulation = settled(model={"source": "hf://org/model", "revision": "0123abc"}, engine={"kvMemory": "4Gi"})
    _with_settings(simulation, max_num_seqs=64, kv_memory=4 * 1024**3, micro_batches=3)
    found = {each["field"]: (each["value"], each["source"]) for each in simulation.body["status"]["effective"]}
    assert found["spec.engine.maxNumSeqs"] == ("64", "engine")
    assert found["spec.engine.microBatches"] == ("3", "engine"), "what was left to the engine is told too"
    assert found["spec.model.revision"] == ("0123abc", "operator")
    wanted = read_spec(simulation.body).wanted.dump()
    missing = [path for path in _set_fields(wanted, "spec") if not any(field.startswith(path) for field in found)]
    assert missing == []
    assert _conditions(simulation)["Degraded"] == ("False", "NoGangScheduler"), "4Gi is 4294967296"


def _effective(simulation: Simulation) -> dict[str, str]:
    return {each["field"]: each["value"] for each in simulation.body["status"]["effective"]}


def test_a_new_revision_is_in_force_only_when_a_replica_of_it_is_ready() -> None:
    simulation = settled(engine={"maxNumSeqs": 64}, restart={"nodeLostSeconds": 30})
    old = simulation.body["status"]["currentRevision"]
    simulation.change(
        image="example/stageline:2",
        engine={"maxNumSeqs": 32},
        restart={"nodeLostSeconds": 40, "backoffSeconds": 7},
        rollout={"paused": True},
    )
    simulation.settle()
    found = _effective(simulation)
    assert found["spec.image"] == "example/stageline:1"
    assert (found["spec.engine.maxNumSeqs"], found["spec.restart.nodeLostSeconds"]) == ("64", "30")
    assert (found["spec.restart.backoffSeconds"], found["spec.rollout.paused"]) == ("7", "true"), "in force at once"
    assert simulation.body["status"]["effectiveRevision"] == old
    assert _conditions(simulation)["Degraded"] == ("False", "NoGangScheduler"), "64 is what its own revision asks for"
    simulation.change(engine={"maxNumSeqs": 64}, rollout={"paused": False})
    simulation.settle()
    assert _effective(simulation)["spec.image"] == "example/stageline:2"
    assert simulation.body["status"]["effectiveRevision"] == simulation.body["status"]["currentRevision"] != old


def test_fields_that_were_left_to_the_operator_are_told() -> None:
    found = _effective(settled(model={"source": "hf://org/model@v2"}))
    assert found["spec.scheduling.gang"] == "none"
    assert (found["spec.model.servedName"], found["spec.model.revision"]) == ("model", "v2")
    assert found["spec.network.serviceName"] == "demo"


@pytest.mark.parametrize("stages", [2, 64])
def test_each_stage_of_a_list_is_told(stages: int) -> None:
    given = [{"tensorParallel": 1, "env": [{"name": f"E{number}", "value": "x" * 9}]} for number in range(stages)]
    simulation = settled(pipeline={"stageList": given})
    found = _effective(simulation)
    assert found["spec.pipeline.stageList[1].tensorParallel"] == "1"
    assert f"E{stages - 1}" in found[f"spec.pipeline.stageList[{stages - 1}].env"]
    assert "spec.pipeline.stageList" not in found
    InferenceDeploymentStatus.model_validate_json(json.dumps(simulation.body["status"]))


def test_a_stage_list_of_more_fields_than_there_is_room_for_is_told_stage_by_stage() -> None:
    names = [f"E{number}" for number in range(3)]
    resources = {"requests": {"memory": "1Gi"}, "limits": {"memory": "1Gi"}}
    given = [
        {
            "tensorParallel": 1,
            "resources": resources,
            "nodeSelector": {"a": "b"},
            "env": [{"name": name, "value": "x"} for name in names],
            "layers": {"start": 2 * number, "end": 2 * number + 2},
            "tolerations": [{"key": "gpu", "operator": "Exists"}],
            "runtimeClassName": "nvidia",
        }
        for number in range(64)
    ]
    found = _effective(settled(pipeline={"stageList": given}, model={"source": "hf://org/model", "layers": 128}))
    assert "E2" in found["spec.pipeline.stageList[63]"]


def test_what_an_engine_that_loads_has_not_decided_yet_is_no_difference() -> None:
    simulation = settled(engine={"maxModelLen": 2048})
    for is_ready, value in ((False, 16), (False, None), (True, None)):
        head = simulation.pods["demo-0-head-0"]
        state = HeadState(epoch=1, ready=is_ready, draining=False, stages=(), settings={"max_model_len": value})
        observed = replace(simulation.observed(), heads={0: HeadAnswer(0, head.uid, simulation.now, state, "")})
        for action in decide(read_spec(simulation.body), simulation.plan(), observed, simulation.now).actions:
            simulation.do(action)
        assert _conditions(simulation)["Degraded"] == ("False", "NoGangScheduler")
        assert _effective(simulation)["spec.engine.maxModelLen"] == "2048"


def _set_fields(value: Any, path: str) -> list[str]:
    if isinstance(value, dict) and value:
        return [found for key, below in value.items() for found in _set_fields(below, f"{path}.{key}")]
    return [] if value in ({}, [], "") else [path]


def test_a_value_that_differs_from_what_was_asked_for_is_degraded() -> None:
    simulation = settled(engine={"maxNumSeqs": 32})
    _with_settings(simulation, max_num_seqs=16)
    assert _conditions(simulation)["Degraded"] == ("True", "EffectDiffers")
    message = simulation.body["status"]["conditions"][2]["message"]
    assert message == "spec.engine.maxNumSeqs is 32, and the engine reports 16"


def test_an_answer_of_an_earlier_head_says_nothing() -> None:
    simulation = settled(engine={"maxNumSeqs": 32})
    state = HeadState(epoch=9, ready=True, draining=False, stages=(), settings={"max_num_seqs": 16})
    observed = replace(simulation.observed(), heads={0: HeadAnswer(0, "an earlier pod", simulation.now, state, "")})
    decision = decide(read_spec(simulation.body), simulation.plan(), observed, simulation.now)
    assert not any(isinstance(action, WriteStatus) for action in decision.actions)


def test_a_head_that_serves_and_does_not_tell_its_state_is_named() -> None:
    simulation = settled()

    assert simulation.pods["demo-0-head-0"].ready_changed_at == simulation.now - 1

    def message(state: HeadState | None, error: str) -> str:
        answer = HeadAnswer(0, simulation.pods["demo-0-head-0"].uid, simulation.now, state, error)
        observed = replace(simulation.observed(), heads={0: answer})
        for action in decide(read_spec(simulation.body), simulation.plan(), observed, simulation.now).actions:
            simulation.do(action)
        found: str = simulation.body["status"]["replicaList"][0]["message"]
        return found

    assert message(None, "refused") == "", "it was asked as it became ready"
    simulation.now += 60
    assert message(None, "HTTP status 500").endswith("does not tell the operator its state: HTTP status 500")
    state = HeadState(epoch=1, ready=True, draining=True, stages=(), settings={})
    assert "its head ends" in message(state, "")
    assert message(state.model_copy(update={"draining": False}), "") == ""


def test_the_heads_are_asked_often_only_while_something_moves() -> None:
    simulation = Simulation(resource())
    assert simulation.reconcile().poll is True
    simulation.settle()
    assert simulation.decide().poll is False


def test_a_head_is_asked_often_until_it_was_asked_since_it_is_ready() -> None:
    """What it said just before would stay in the status until the next question of a resource at rest."""
    simulation = settled()
    (head,) = (pod for pod in simulation.pods.values() if pod.is_head)
    early = HeadState(epoch=0, ready=False, draining=False, stages=(), settings={})

    def is_asked_often(asked_after: float, state: HeadState | None) -> bool:
        assert head.ready_changed_at is not None
        answer = HeadAnswer(0, head.uid, head.ready_changed_at + asked_after, state, "" if state else "refused")
        observed = replace(simulation.observed(), heads={0: answer})
        return decide(read_spec(simulation.body), simulation.plan(), observed, simulation.now).poll

    assert is_asked_often(-2, early) and is_asked_often(-2, None)
    assert not is_asked_often(-2, early.model_copy(update={"ready": True})), (
        "the pod's word may be later than its head's"
    )
    assert not is_asked_often(2, early) and not is_asked_often(2, None), "one that never says it is not asked for ever"


def test_events_tell_each_change_of_state_once() -> None:
    simulation = settled()
    simulation.set_pod(pod_states.failed(simulation.pods["demo-0-s1-0"], simulation.now, "Evicted"))
    simulation.reconcile()
    simulation.settle()
    simulation.change(image="example/stageline:2")
    simulation.settle()
    told = [event.reason.value for event in simulation.events]
    assert told == [
        "ReplicaCreated",
        "NoGangScheduler",
        "ReplicaReady",
        "ReplicasReady",
        "StageReplaced",
        "NoReplicaReady",
        "ReplicaRecovered",
        "ReplicasReady",
        "ReplicaCreated",
        "RollingOut",
        "ReplicaDraining",
        "ReplicaReady",
        "ReplicaDeleted",
        "RolloutComplete",
    ]


def _told_since(simulation: Simulation, before: int) -> list[tuple[str, str, str]]:
    return [(event.type, event.reason.value, event.message) for event in simulation.events[before:]]


def test_an_outage_without_a_dead_pod_is_told_and_its_end_too() -> None:
    simulation = settled()
    before = len(simulation.events)
    simulation.now += 60
    simulation.set_pod(pod_states.made_ready(simulation.pods["demo-0-head-0"], False, simulation.now))
    simulation.reconcile()
    simulation.now += 60
    simulation.settle()
    assert _told_since(simulation, before) == [
        ("Warning", "ReplicaNotReady", "replica 0 is not ready any more; not ready: demo-0-head-0"),
        ("Warning", "NoReplicaReady", "no replica answers"),
        ("Normal", "ReplicaRecovered", "replica 0 is ready again"),
        ("Normal", "ReplicasReady", "1 of 1 replicas answer"),
    ]


def test_that_nothing_is_wrong_any_more_is_told() -> None:
    simulation = settled()
    del simulation.children["Service", "demo"]
    simulation.strangers, simulation.is_dirty = (Stranger("Service", "demo", ""),), True
    simulation.settle()
    before = len(simulation.events)
    simulation.strangers, simulation.is_dirty = (), True
    simulation.settle()
    assert _told_since(simulation, before) == [("Normal", "AsExpected", "NameTaken is over")]


def test_scaling_to_zero_is_no_outage() -> None:
    simulation = settled()
    before = len(simulation.events)
    simulation.change(replicas=0)
    simulation.settle()
    assert ("Normal", "ScaledToZero", "spec.replicas is 0") in _told_since(simulation, before)
    assert all(kind == "Normal" for kind, _, _ in _told_since(simulation, before))


def test_what_the_status_says_is_read_back_as_it_was_written() -> None:
    simulation = settled(replicas=2)
    written = [action.status for action in simulation.writes if isinstance(action, WriteStatus)][-1]
    assert read_status(json.loads(json.dumps(written.dump()))) == written


def test_a_status_of_many_replicas_in_trouble_stays_small() -> None:
    simulation = settled(replicas=100, pipeline={"stages": 1}, restart={"budget": {"crash": 100}})
    for pod in list(simulation.pods.values()):
        simulation.set_pod(pod_states.restarted(pod, 1, simulation.now, log="x" * 2048))
    for _ in range(3):
        simulation.reconcile()
        status = simulation.body["status"]
        assert len(status["replicaList"]) == 100
        assert len(json.dumps(status)) < 300_000
        InferenceDeploymentStatus.model_validate_json(json.dumps(status))


def test_the_largest_resource_fits_in_its_status_and_forgets_nothing_when_all_of_it_fails() -> None:
    body = resource(name="n" * 40, replicas=100, pipeline={"stages": 64}, restart={"budget": {"communication": 1000}})
    simulation = Simulation(body)
    simulation.reconcile()
    for pod in list(simulation.pods.values()):
        started = pod_states.running(pod_states.placed(pod, "n" * 50, simulation.now))
        simulation.set_pod(pod_states.made_ready(started, True, simulation.now))
    simulation.reconcile()
    assert (simulation.body["status"]["ready"], _bytes_of(simulation) < 600_000) == ("100/100", True)
    pods = list(simulation.pods.values())
    for pod in pods[: len(pods) // 2]:
        log = "x" * 2048
        simulation.set_pod(pod_states.restarted(pod, 75, simulation.now, log=log))
    for pod in pods[len(pods) // 2 :]:
        simulation.set_pod(pod_states.failed(pod, simulation.now, "Evicted"))
    before = len(simulation.events)
    for _ in range(3):
        simulation.reconcile()
        assert _bytes_of(simulation) < 1_250_000
    told = [event for event in simulation.events[before:] if event.reason in ("StageReplaced", "ContainerRestarted")]
    assert len(told) == len(pods) - len([pod for pod in pods[len(pods) // 2 :] if pod.is_head]), "each once"
    used = [each["used"] for entry in simulation.body["status"]["replicaList"] for each in entry["restarts"]]
    assert sum(used) == len(pods)
    assert simulation.body["status"]["lastFailure"]["reason"]


def _bytes_of(simulation: Simulation) -> int:
    return len(json.dumps(simulation.body["status"], separators=(",", ":")).encode())


def test_each_failure_of_the_most_replicas_is_counted_and_told_once() -> None:
    simulation = settled(replicas=100, pipeline={"stages": 1}, rollout={"maxSurge": 100})
    simulation.change(image="example/stageline:2")
    simulation.reconcile()
    simulation.advance()
    simulation.reconcile()
    assert len(simulation.body["status"]["replicaList"]) == 200, "old and new ones"
    failed = [pod for pod in simulation.pods.values() if not pod.is_head]
    for pod in failed:
        simulation.set_pod(pod_states.failed(pod, simulation.now, "Evicted"))
    before = len(simulation.events)
    for _ in range(4):
        simulation.reconcile()
    told = [event.message for event in simulation.events[before:] if event.reason == "StageReplaced"]
    assert len(failed) == len(told) == len(set(told)) == 200
    used = [entry["restarts"] for entry in simulation.body["status"]["replicaList"]]
    assert used == [[{"cause": "NodeLost", "used": 1}]] * 200


def test_a_wrong_spec_is_told_and_nothing_is_touched() -> None:
    simulation = settled()
    with pytest.raises(SpecError) as caught:
        read_spec(simulation.body | {"spec": simulation.body["spec"] | {"replicas": -1}})
    before = read_status(simulation.body["status"])
    decision = decide_invalid(caught.value, before, 2, simulation.now)
    event, write = decision.actions
    assert isinstance(event, EmitEvent)
    assert isinstance(write, WriteStatus)
    degraded = next(each for each in write.status.conditions if each.type == "Degraded")
    assert (degraded.status, degraded.reason, degraded.observed_generation) == ("True", "InvalidSpec", 2)
    assert "spec.replicas=-1" in degraded.message
    assert write.status.replica_list == before.replica_list
    others = {each.type.value: (each.status, each.reason) for each in write.status.conditions if each is not degraded}
    assert others == {"Available": ("Unknown", "InvalidSpec"), "Progressing": ("Unknown", "InvalidSpec")}, (
        "nobody looks at the pods meanwhile"
    )
    assert decide_invalid(caught.value, write.status, 2, simulation.now + 9).actions == ()


def test_a_resource_with_a_wrong_spec_is_deleted_like_any_other() -> None:
    simulation = settled()
    simulation.set_pod(pod_states.deleted(simulation.pods["demo-0-s0-0"], 30, simulation.now))
    before = read_status(simulation.body["status"])
    decision = decide_invalid_deletion(before, simulation.observed(), 2, simulation.now)
    (write,) = decision.actions
    assert isinstance(write, WriteStatus)
    assert (write.status.phase, write.status.reason) == ("Deleting", "Deleting")
    assert decision.again_after == 40.0, "its node has the grace period and 10 s"
    late = decide_invalid_deletion(write.status, simulation.observed(), 2, simulation.now + 40)
    assert acts(late) == ["force-delete Pod demo-0-s0-0"]
    assert [each.reason.value for each in late.actions if isinstance(each, EmitEvent)] == ["PodForceDeleted"]
    changed = Stray("demo-0-s1-0", "uid-of-it", "9", "node-a", simulation.now - 60, 30)
    also = replace(simulation.observed(), pods=(), strays=(changed,))
    assert acts(decide_invalid_deletion(write.status, also, 2, simulation.now)) == ["force-delete Pod demo-0-s1-0"]
