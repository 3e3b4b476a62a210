"""When a replica that is not ready is given up, and when it is waited for."""

from __future__ import annotations

from collections.abc import Callable

from stageline_operator.decide.observed import PodSummary
from support.operator.harm import STAGE, evict
from support.operator.simulation import Simulation, settled
from support.operator.told import replica_of, status_of


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
    status = status_of(simulation)
    assert (status["phase"], status["reason"]) == ("Failed", "RestartBudgetExhausted")
    assert "not ready within 900 s" in status["replicaList"][0]["message"]
    assert len(set(numbers)) == 2, "one was tried in the first one's stead"
    assert simulation.now - 1_700_000_000 > 1_800


def test_a_replica_that_does_not_recover_in_time_is_given_up_for_a_new_one() -> None:
    simulation = settled(restart={"recoveryDeadlineSeconds": 700})
    evict(simulation, STAGE)
    simulation.reconcile()
    simulation.fits = 0  # its replacement finds no node
    simulation.advance()
    simulation.reconcile()
    simulation.now += 699
    simulation.reconcile()
    assert replica_of(simulation)["phase"] == "Recovering"
    simulation.now += 3
    simulation.reconcile()
    assert replica_of(simulation)["phase"] == "Failed"
    simulation.fits = 100
    simulation.settle()
    assert status_of(simulation)["phase"] == "Ready"
    assert sorted(simulation.pods) == ["demo-1-head-0", "demo-1-s0-0", "demo-1-s1-0"]


def test_a_replica_that_waits_for_nodes_is_never_given_up() -> None:
    simulation = Simulation(settled().body | {"status": {}})
    simulation.fits = 0
    for _ in range(5):
        simulation.reconcile()
        simulation.now += 10_000
    assert replica_of(simulation)["phase"] == "Pending"
    assert status_of(simulation)["phase"] == "Pending"


# -- pods that cannot start ---
