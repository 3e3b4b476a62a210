"""How failures are counted, when another try is made, and when there is none any more."""

from __future__ import annotations

import pytest

from stageline_operator.decide.observed import Stranger
from support.operator import pods as pod_states
from support.operator.acts import acts
from support.operator.harm import HEAD, STAGE, crash, evict
from support.operator.simulation import settled
from support.operator.told import replica_of, status_of, used_of


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
    crash(simulation, STAGE, exit_code, reason, log="the last line")
    decision = simulation.reconcile()
    assert acts(decision) == []
    assert used_of(simulation) == {cause: 1}
    failure = status_of(simulation)["lastFailure"]
    assert (failure["pod"], failure["exitCode"], failure["logTail"]) == (STAGE, exit_code, "the last line")
    assert "ContainerRestarted" in [event.reason.value for event in simulation.events]


@pytest.mark.parametrize("reason", ["Evicted", "NodeShutdown", "OutOfcpu", "UnexpectedAdmissionError"])
def test_a_pod_that_its_node_ends_or_refuses_counts_as_a_lost_node(reason: str) -> None:
    simulation = settled()
    simulation.set_pod(pod_states.failed(simulation.pods[STAGE], simulation.now, reason))
    simulation.reconcile()
    assert used_of(simulation) == {"NodeLost": 1}
    assert status_of(simulation)["lastFailure"]["reason"] == reason


def test_restarts_that_happened_while_no_operator_ran_are_all_counted() -> None:
    simulation = settled()
    for _ in range(3):
        crash(simulation, STAGE)
    simulation.reconcile()
    assert used_of(simulation) == {"Crash": 3}


def test_the_first_restart_is_at_once_and_each_further_one_waits_twice_as_long() -> None:
    simulation = settled(restart={"backoffSeconds": 5, "maxBackoffSeconds": 30, "budget": {"nodeLost": 100}})
    waits = []
    for incarnation in range(6):
        name = f"demo-0-s1-{incarnation}"
        failed_at = simulation.now
        evict(simulation, name)
        while f"demo-0-s1-{incarnation + 1}" not in simulation.pods:
            assert simulation.step()
        waits.append(simulation.now - failed_at)
        while not simulation.pods[f"demo-0-s1-{incarnation + 1}"].ready:
            assert simulation.step()
    assert waits == [0, 5, 10, 20, 30, 30]


def test_books_begin_anew_after_a_replica_was_ready_for_long_enough() -> None:
    simulation = settled(restart={"resetSeconds": 60})
    evict(simulation, STAGE)
    simulation.settle()  # goes on until nothing is due any more
    assert used_of(simulation) == {}
    assert simulation.now < 1_700_000_000 + 100


def test_a_cause_that_used_its_budget_up_ends_in_failed_with_the_evidence_kept() -> None:
    simulation = settled(restart={"budget": {"configuration": 1}})
    crash(simulation, STAGE, 2)
    simulation.reconcile()
    crash(simulation, STAGE, 2, log="no such flag --fast")
    simulation.reconcile()
    assert replica_of(simulation)["phase"] == "Failed"
    assert acts(simulation.reconcile()) == [f"delete Pod {HEAD}", "delete Pod demo-0-s0-0", f"delete Pod {STAGE}"]
    simulation.settle()
    status = status_of(simulation)
    assert simulation.pods == {}
    assert (status["phase"], status["reason"]) == ("Failed", "RestartBudgetExhausted")
    assert status["lastFailure"]["logTail"] == "no such flag --fast"
    assert "spec.restart.budget allows (1)" in replica_of(simulation)["message"]
    simulation.now += 100_000
    assert simulation.decide().actions == (), "Failed is the end until the spec changes"


def test_a_change_of_the_spec_tries_again_after_failed() -> None:
    simulation = settled(restart={"budget": {"configuration": 0}})
    crash(simulation, STAGE, 2)
    simulation.settle()
    assert status_of(simulation)["phase"] == "Failed"
    simulation.change(image="example/stageline:fixed")
    simulation.settle()
    assert status_of(simulation)["phase"] == "Ready"


def test_any_change_of_the_spec_tries_again_with_a_whole_budget() -> None:
    simulation = settled(restart={"budget": {"crash": 1}})
    for _ in range(2):
        crash(simulation, STAGE)
        simulation.reconcile()
    simulation.settle()
    assert status_of(simulation)["phase"] == "Failed"
    simulation.change(rollout={"maxSurge": 2})
    simulation.settle()
    assert status_of(simulation)["phase"] == "Ready"
    (entry,) = status_of(simulation)["replicaList"]
    assert entry["restarts"] == []
    stage = next(pod for pod in simulation.pods.values() if pod.stage == 1)
    simulation.set_pod(pod_states.restarted(stage, 1, simulation.now))
    simulation.settle()
    assert status_of(simulation)["phase"] == "Ready", "one crash is within the budget"


def test_a_change_tries_again_with_a_whole_budget_also_when_the_new_replica_cannot_be_made_at_once() -> None:
    simulation = settled(restart={"budget": {"crash": 0}})
    crash(simulation, STAGE)
    simulation.settle()
    assert status_of(simulation)["phase"] == "Failed"
    del simulation.children["Service", "demo"]
    simulation.strangers = (Stranger("Service", "demo", ""),)
    simulation.change(rollout={"maxSurge": 2})
    simulation.settle()
    assert not simulation.pods
    simulation.strangers, simulation.is_dirty = (), True
    simulation.settle()
    assert status_of(simulation)["phase"] == "Ready"


def test_a_pod_that_fails_for_ever_costs_less_than_a_write_a_second() -> None:
    simulation = settled(restart={"budget": {"nodeLost": 1000}})
    start, before = simulation.now, len(simulation.writes)
    while simulation.now < start + 3_600:
        for pod in list(simulation.pods.values()):
            if pod.stage == 1 and pod.scheduled_at is not None and not pod.has_ended:
                evict(simulation, pod.name)
        assert simulation.step()
    assert len(simulation.writes) - before < 300


# -- deadlines ---
