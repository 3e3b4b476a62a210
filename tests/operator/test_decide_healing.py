"""What becomes of a replica whose pods end, hang on a lost node, or never start."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from stageline_operator.decide.actions import EmitEvent, WriteStatus
from stageline_operator.decide.observed import PodSummary, Stranger
from support.operator import pods as pod_states
from support.operator.simulation import Simulation, acts, settled

HEAD, STAGE = "demo-0-head-0", "demo-0-s1-0"


def _status(simulation: Simulation) -> dict[str, Any]:
    status: dict[str, Any] = simulation.body["status"]
    return status


def _replica(simulation: Simulation, number: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = next(each for each in _status(simulation)["replicaList"] if each["replica"] == number)
    return found


def _used(simulation: Simulation, number: int = 0) -> dict[str, int]:
    return {each["cause"]: each["used"] for each in _replica(simulation, number)["restarts"]}


def _evict(simulation: Simulation, name: str) -> None:
    simulation.set_pod(pod_states.failed(simulation.pods[name], simulation.now, "Evicted"))


def _crash(simulation: Simulation, name: str, exit_code: int = 1, reason: str = "Error", log: str = "") -> None:
    pod = simulation.pods[name]
    simulation.set_pod(pod_states.restarted(pod, exit_code, simulation.now, reason, log))
    simulation.set_pod(pod_states.made_ready(simulation.pods[HEAD], False, simulation.now))


def _live(simulation: Simulation, prefix: str) -> str:
    return next(pod.name for pod in simulation.pods.values() if pod.name.startswith(prefix) and pod.gone_at is None)


# -- a pod is over ---


@pytest.mark.parametrize(("pod", "successor"), [(STAGE, "demo-0-s1-1"), (HEAD, "demo-0-head-1")])
def test_a_pod_that_ended_is_replaced_alone_and_removed_when_the_status_tells_of_it(pod: str, successor: str) -> None:
    simulation = settled()
    others = {name: each.uid for name, each in simulation.pods.items() if name != pod}
    _evict(simulation, pod)
    assert acts(simulation.reconcile()) == [f"create Pod {successor}"]
    assert _used(simulation) == {"NodeLost": 1}
    assert acts(simulation.reconcile()) == [f"delete Pod {pod}"]
    simulation.settle()
    assert {name: each.uid for name, each in simulation.pods.items() if name != successor} == others
    assert _status(simulation)["phase"] == "Ready"


def test_the_replacement_of_a_stage_carries_the_epoch_that_it_is_made_for() -> None:
    simulation = settled()
    _evict(simulation, STAGE)
    simulation.reconcile()
    assert simulation.bodies["demo-0-s1-1"]["metadata"]["labels"]["stageline.dev/epoch"] == "1"


def test_a_pod_that_is_being_deleted_never_blocks_its_successor() -> None:
    simulation = settled()
    simulation.stopped_nodes.add(simulation.pods[STAGE].node)
    simulation.delete_pod(STAGE, "DeletionByTaintManager")
    assert acts(simulation.reconcile()) == ["create Pod demo-0-s1-1"]


def test_a_pod_on_a_lost_node_is_force_deleted_ten_seconds_after_its_grace_and_not_before() -> None:
    simulation = settled()
    simulation.stopped_nodes.add(simulation.pods[STAGE].node)
    simulation.delete_pod(STAGE, "DeletionByTaintManager")
    gone_at = simulation.pods[STAGE].gone_at
    assert gone_at is not None
    simulation.reconcile()
    simulation.now = gone_at + 9
    assert acts(simulation.reconcile()) == []
    assert simulation.again_at == gone_at + 10
    simulation.now = gone_at + 10
    assert acts(simulation.reconcile()) == [f"force-delete Pod {STAGE}"]
    assert "PodForceDeleted" in [event.reason.value for event in simulation.events]


def test_a_pod_that_only_a_finalizer_holds_is_not_deleted_again_and_again() -> None:
    simulation = settled()
    simulation.stopped_nodes.add(simulation.pods[STAGE].node)
    held = pod_states.deleted(simulation.pods[STAGE], 0, simulation.now)
    simulation.set_pod(held)
    simulation.settle()
    simulation.now += 10_000
    assert acts(simulation.decide()) == []


def test_a_pod_that_vanished_is_replaced_by_the_next_incarnation() -> None:
    simulation = settled()
    del simulation.pods[STAGE]
    simulation.is_dirty = True
    assert acts(simulation.reconcile()) == ["create Pod demo-0-s1-1"]
    simulation.settle()
    assert _replica(simulation)["stages"][1]["lastFailure"]["reason"] == "Deleted"


@pytest.mark.parametrize("is_lost", [False, True], ids=["its node answers", "its node is lost"])
def test_a_pod_whose_labels_were_changed_is_deleted_and_replaced(is_lost: bool) -> None:
    simulation = settled()
    if is_lost:
        simulation.stopped_nodes.add(simulation.pods["demo-0-s1-0"].node)
    simulation.change_labels("demo-0-s1-0")
    order = acts(simulation.reconcile())
    assert order[0] == "delete Pod demo-0-s1-0"
    assert "create Pod demo-0-s1-1" in order
    simulation.settle()
    assert not simulation.strays
    assert sorted(simulation.pods) == ["demo-0-head-0", "demo-0-s0-0", "demo-0-s1-1"]
    assert simulation.body["status"]["phase"] == "Ready"


def test_a_replica_whose_pods_are_all_being_deleted_is_not_healed_but_replaced() -> None:
    simulation = settled()
    for name in list(simulation.pods):
        simulation.delete_pod(name)
    created = [act for act in acts(simulation.reconcile()) if "create Pod" in act]
    assert created == ["create Pod demo-1-head-0", "create Pod demo-1-s0-0", "create Pod demo-1-s1-0"]
    simulation.settle()
    assert sorted(simulation.pods) == ["demo-1-head-0", "demo-1-s0-0", "demo-1-s1-0"]


# -- causes, budgets, back-off ---


@pytest.mark.parametrize(
    ("exit_code", "reason", "cause"),
    [
        (1, "Error", "Crash"),
        (0, "Completed", "Crash"),
        (139, "Error", "Crash"),
        (2, "Error", "Configuration"),
        (75, "Error", "Communication"),
        (137, "OOMKilled", "OutOfMemory"),
        (128, "StartError", "Configuration"),
        (137, "ContainerStatusUnknown", "NodeLost"),
    ],
)
def test_a_container_that_the_kubelet_restarts_is_counted_by_its_cause(exit_code: int, reason: str, cause: str) -> None:
    simulation = settled()
    _crash(simulation, STAGE, exit_code, reason, log="the last line")
    decision = simulation.reconcile()
    assert acts(decision) == []
    assert _used(simulation) == {cause: 1}
    failure = _status(simulation)["lastFailure"]
    assert (failure["pod"], failure["exitCode"], failure["logTail"]) == (STAGE, exit_code, "the last line")
    assert "ContainerRestarted" in [event.reason.value for event in simulation.events]


@pytest.mark.parametrize("reason", ["Evicted", "NodeShutdown", "OutOfcpu", "UnexpectedAdmissionError"])
def test_a_pod_that_its_node_ends_or_refuses_counts_as_a_lost_node(reason: str) -> None:
    simulation = settled()
    simulation.set_pod(pod_states.failed(simulation.pods[STAGE], simulation.now, reason))
    simulation.reconcile()
    assert _used(simulation) == {"NodeLost": 1}
    assert _status(simulation)["lastFailure"]["reason"] == reason


def test_restarts_that_happened_while_no_operator_ran_are_all_counted() -> None:
    simulation = settled()
    for _ in range(3):
        _crash(simulation, STAGE)
    simulation.reconcile()
    assert _used(simulation) == {"Crash": 3}


def test_the_first_restart_is_at_once_and_each_further_one_waits_twice_as_long() -> None:
    simulation = settled(restart={"backoffSeconds": 5, "maxBackoffSeconds": 30, "budget": {"nodeLost": 100}})
    waits = []
    for incarnation in range(6):
        name = f"demo-0-s1-{incarnation}"
        failed_at = simulation.now
        _evict(simulation, name)
        while f"demo-0-s1-{incarnation + 1}" not in simulation.pods:
            assert simulation.step()
        waits.append(simulation.now - failed_at)
        while not simulation.pods[f"demo-0-s1-{incarnation + 1}"].ready:
            assert simulation.step()
    assert waits == [0, 5, 10, 20, 30, 30]


def test_books_begin_anew_after_a_replica_was_ready_for_long_enough() -> None:
    simulation = settled(restart={"resetSeconds": 60})
    _evict(simulation, STAGE)
    simulation.settle()  # goes on until nothing is due any more
    assert _used(simulation) == {}
    assert simulation.now < 1_700_000_000 + 100


def test_a_cause_that_used_its_budget_up_ends_in_failed_with_the_evidence_kept() -> None:
    simulation = settled(restart={"budget": {"configuration": 1}})
    _crash(simulation, STAGE, 2)
    simulation.reconcile()
    _crash(simulation, STAGE, 2, log="no such flag --fast")
    simulation.reconcile()
    assert _replica(simulation)["phase"] == "Failed"
    assert acts(simulation.reconcile()) == [f"delete Pod {HEAD}", "delete Pod demo-0-s0-0", f"delete Pod {STAGE}"]
    simulation.settle()
    status = _status(simulation)
    assert simulation.pods == {}
    assert (status["phase"], status["reason"]) == ("Failed", "RestartBudgetExhausted")
    assert status["lastFailure"]["logTail"] == "no such flag --fast"
    assert "spec.restart.budget allows (1)" in _replica(simulation)["message"]
    simulation.now += 100_000
    assert simulation.decide().actions == (), "Failed is the end until the spec changes"


def test_a_change_of_the_spec_tries_again_after_failed() -> None:
    simulation = settled(restart={"budget": {"configuration": 0}})
    _crash(simulation, STAGE, 2)
    simulation.settle()
    assert _status(simulation)["phase"] == "Failed"
    simulation.change(image="example/stageline:fixed")
    simulation.settle()
    assert _status(simulation)["phase"] == "Ready"


def test_any_change_of_the_spec_tries_again_with_a_whole_budget() -> None:
    simulation = settled(restart={"budget": {"crash": 1}})
    for _ in range(2):
        _crash(simulation, STAGE)
        simulation.reconcile()
    simulation.settle()
    assert _status(simulation)["phase"] == "Failed"
    simulation.change(rollout={"maxSurge": 2})
    simulation.settle()
    assert _status(simulation)["phase"] == "Ready"
    (entry,) = _status(simulation)["replicaList"]
    assert entry["restarts"] == []
    stage = next(pod for pod in simulation.pods.values() if pod.stage == 1)
    simulation.set_pod(pod_states.restarted(stage, 1, simulation.now))
    simulation.settle()
    assert _status(simulation)["phase"] == "Ready", "one crash is within the budget"


def test_a_change_tries_again_with_a_whole_budget_also_when_the_new_replica_cannot_be_made_at_once() -> None:
    simulation = settled(restart={"budget": {"crash": 0}})
    _crash(simulation, STAGE)
    simulation.settle()
    assert _status(simulation)["phase"] == "Failed"
    del simulation.children["Service", "demo"]
    simulation.strangers = (Stranger("Service", "demo", ""),)
    simulation.change(rollout={"maxSurge": 2})
    simulation.settle()
    assert not simulation.pods
    simulation.strangers, simulation.is_dirty = (), True
    simulation.settle()
    assert _status(simulation)["phase"] == "Ready"


def test_a_pod_that_fails_for_ever_costs_less_than_a_write_a_second() -> None:
    simulation = settled(restart={"budget": {"nodeLost": 1000}})
    start, before = simulation.now, len(simulation.writes)
    while simulation.now < start + 3_600:
        for pod in list(simulation.pods.values()):
            if pod.stage == 1 and pod.scheduled_at is not None and not pod.has_ended:
                _evict(simulation, pod.name)
        assert simulation.step()
    assert len(simulation.writes) - before < 300


# -- deadlines ---


def _never_ready(simulation: Simulation, pods: Callable[[PodSummary], bool]) -> None:
    """Pods that match never become ready: their kubelets report nothing after the start."""
    for pod in simulation.pods.values():
        if pods(pod) and pod.scheduled_at is not None and not pod.ready:
            simulation.stopped_nodes.add(pod.node)


def test_a_new_replica_that_is_not_ready_in_time_is_given_up_for_another_until_the_budget_is_used_up() -> None:
    restart = {"replicaDeadlineSeconds": 900, "budget": {"crash": 1}}
    simulation = Simulation(settled(restart=restart).body | {"status": {}})
    numbers: list[int] = []
    for _ in range(400):
        _never_ready(simulation, lambda pod: pod.stage == 0)
        if not simulation.step():
            break
        numbers += [pod.replica for pod in simulation.pods.values() if pod.replica not in numbers[-1:]]
    status = _status(simulation)
    assert (status["phase"], status["reason"]) == ("Failed", "RestartBudgetExhausted")
    assert "not ready within 900 s" in status["replicaList"][0]["message"]
    assert len(set(numbers)) == 2, "one was tried in the first one's stead"
    assert simulation.now - 1_700_000_000 > 1_800


def test_a_replica_that_does_not_recover_in_time_is_given_up_for_a_new_one() -> None:
    simulation = settled(restart={"recoveryDeadlineSeconds": 700})
    _evict(simulation, STAGE)
    simulation.reconcile()
    simulation.fits = 0  # its replacement finds no node
    simulation.advance()
    simulation.reconcile()
    simulation.now += 699
    simulation.reconcile()
    assert _replica(simulation)["phase"] == "Recovering"
    simulation.now += 3
    simulation.reconcile()
    assert _replica(simulation)["phase"] == "Failed"
    simulation.fits = 100
    simulation.settle()
    assert _status(simulation)["phase"] == "Ready"
    assert sorted(simulation.pods) == ["demo-1-head-0", "demo-1-s0-0", "demo-1-s1-0"]


def test_a_replica_that_waits_for_nodes_is_never_given_up() -> None:
    simulation = Simulation(settled().body | {"status": {}})
    simulation.fits = 0
    for _ in range(5):
        simulation.reconcile()
        simulation.now += 10_000
    assert _replica(simulation)["phase"] == "Pending"
    assert _status(simulation)["phase"] == "Pending"


# -- pods that cannot start ---


def test_an_image_that_cannot_be_pulled_is_told_once_however_often_the_kubelet_tries() -> None:
    simulation = settled()
    simulation.delete_pod(STAGE)
    simulation.reconcile()
    simulation.advance()
    name = _live(simulation, "demo-0-s1")
    writes: list[int] = []
    for reason in ("ErrImagePull", "ImagePullBackOff", "ErrImagePull"):
        simulation.set_pod(pod_states.waiting(simulation.pods[name], reason, f"try {len(writes)}"))
        decision = simulation.reconcile()
        writes.append(sum(isinstance(action, WriteStatus) for action in decision.actions))
    assert writes == [1, 0, 0]
    degraded = _status(simulation)["conditions"][2]
    assert (degraded["status"], degraded["reason"]) == ("True", "PodCannotStart")
    assert "example/stageline:1 cannot be pulled" in degraded["message"]


def test_lost_group_keys_are_made_anew_and_the_replica_with_them() -> None:
    simulation = settled()
    simulation.delete_pod(STAGE)
    simulation.reconcile()
    simulation.has_secret = False  # somebody deletes it
    simulation.advance()
    name = _live(simulation, "demo-0-s1")
    message = 'secret "demo-owner-uid" not found'
    simulation.set_pod(pod_states.waiting(simulation.pods[name], "CreateContainerConfigError", message))
    assert acts(simulation.reconcile()) == ["create the group Secret"]
    simulation.settle()
    assert {pod.replica for pod in simulation.pods.values()} == {1}
    assert _status(simulation)["phase"] == "Ready"


def test_unschedulable_pods_are_told_in_the_schedulers_words() -> None:
    simulation = Simulation(settled().body | {"status": {}})
    simulation.fits = 0
    simulation.reconcile()
    simulation.set_pod(replace(simulation.pods[HEAD], unschedulable="0/3 nodes are available"))
    decision = simulation.reconcile()
    progressing = _status(simulation)["conditions"][1]
    assert progressing["reason"] == "WaitingForScheduling"
    assert progressing["message"] == f"{HEAD} finds no node: 0/3 nodes are available"
    assert any(isinstance(action, EmitEvent) and action.type == "Warning" for action in decision.actions)
