"""The status is the operator's memory: it fits into the API server however much is wrong, and forgets nothing."""

from __future__ import annotations

import json

from stageline_operator.api.status import InferenceDeploymentStatus
from stageline_operator.decide.actions import WriteStatus
from stageline_operator.plan.spec import read_status
from support.operator import pods as pod_states
from support.operator.simulation import Simulation, resource, settled


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
