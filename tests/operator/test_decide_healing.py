"""What becomes of a replica whose pods end, hang on a lost node, or never start."""

from __future__ import annotations

from dataclasses import replace

import pytest

from stageline_operator.decide.actions import EmitEvent, WriteStatus
from support.operator import pods as pod_states
from support.operator.acts import acts
from support.operator.harm import HEAD, STAGE, evict
from support.operator.simulation import Simulation, settled
from support.operator.told import replica_of, status_of, used_of


def _live(simulation: Simulation, prefix: str) -> str:
    return next(pod.name for pod in simulation.pods.values() if pod.name.startswith(prefix) and pod.gone_at is None)


# -- a pod is over ---


@pytest.mark.parametrize(("pod", "successor"), [(STAGE, "demo-0-s1-1"), (HEAD, "demo-0-head-1")])
def test_a_pod_that_ended_is_replaced_alone_and_removed_when_the_status_tells_of_it(pod: str, successor: str) -> None:
    simulation = settled()
    others = {name: each.uid for name, each in simulation.pods.items() if name != pod}
    evict(simulation, pod)
    assert acts(simulation.reconcile()) == [f"create Pod {successor}"]
    assert used_of(simulation) == {"NodeLost": 1}
    assert acts(simulation.reconcile()) == [f"delete Pod {pod}"]
    simulation.settle()
    assert {name: each.uid for name, each in simulation.pods.items() if name != successor} == others
    assert status_of(simulation)["phase"] == "Ready"


def test_the_replacement_of_a_stage_carries_the_epoch_that_it_is_made_for() -> None:
    simulation = settled()
    evict(simulation, STAGE)
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
    assert replica_of(simulation)["stages"][1]["lastFailure"]["reason"] == "Deleted"


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
    degraded = status_of(simulation)["conditions"][2]
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
    assert status_of(simulation)["phase"] == "Ready"


def test_unschedulable_pods_are_told_in_the_schedulers_words() -> None:
    simulation = Simulation(settled().body | {"status": {}})
    simulation.fits = 0
    simulation.reconcile()
    simulation.set_pod(replace(simulation.pods[HEAD], unschedulable="0/3 nodes are available"))
    decision = simulation.reconcile()
    progressing = status_of(simulation)["conditions"][1]
    assert progressing["reason"] == "WaitingForScheduling"
    assert progressing["message"] == f"{HEAD} finds no node: 0/3 nodes are available"
    assert any(isinstance(action, EmitEvent) and action.type == "Warning" for action in decision.actions)
