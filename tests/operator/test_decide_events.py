"""What an Event tells: each change of state that a person would ask about, once."""

from __future__ import annotations

from stageline_operator.decide.observed import Stranger
from support.operator import pods as pod_states
from support.operator.simulation import Simulation, settled


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
