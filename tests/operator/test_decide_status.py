"""What the status says: the truth, of what is and not of what is wanted."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from stageline_operator.api.errors import SpecError
from stageline_operator.api.state import HeadState
from stageline_operator.decide.actions import EmitEvent, WriteStatus
from stageline_operator.decide.invalid import decide_invalid, decide_invalid_deletion
from stageline_operator.decide.observed import HeadAnswer, Stray
from stageline_operator.decide.reconcile import decide
from stageline_operator.plan.spec import read_spec, read_status
from support.operator import pods as pod_states
from support.operator.acts import acts
from support.operator.simulation import Simulation, resource, settled
from support.operator.told import conditions_of


def test_a_ready_resource_says_so() -> None:
    simulation = settled(replicas=2)
    status = simulation.body["status"]
    assert (status["phase"], status["ready"], status["reason"]) == ("Ready", "2/2", "UpToDate")
    assert (status["replicas"], status["readyReplicas"], status["updatedReplicas"]) == (2, 2, 2)
    assert status["selector"] == "stageline.dev/name=demo,stageline.dev/role=head"
    assert conditions_of(simulation) == {
        "Available": ("True", "ReplicasReady"),
        "Progressing": ("False", "UpToDate"),
        "Degraded": ("False", "NoGangScheduler"),
    }


def test_scaled_to_zero_is_ready_and_not_available() -> None:
    simulation = settled(replicas=0)
    assert simulation.body["status"]["phase"] == "Ready"
    assert conditions_of(simulation)["Available"] == ("False", "ScaledToZero")


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
