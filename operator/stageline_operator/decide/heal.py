"""What a replica needs: the next incarnation of pods that ended, the removal of what is left of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from stageline_operator.api.restart import Restart
from stageline_operator.decide.account import Books, due_at, is_counted
from stageline_operator.decide.actions import Action, Create, Delete, ForceDelete, Ref
from stageline_operator.decide.observed import Child, PodSummary, Stray
from stageline_operator.decide.replicas import Replica, Slot
from stageline_operator.objects.gang import Gang
from stageline_operator.objects.metadata import Body
from stageline_operator.objects.pod import POD, head_pod, stage_pod
from stageline_operator.plan.plan import RevisionPlan
from stageline_operator.plan.spec import Owner

FORCE_AFTER_SECONDS: Final = 10
"""A kubelet that lives and is not stuck has ended a pod's containers and said so this long after the grace period. A
pod shows no sure sign of a lost node: one that was being deleted before gets no condition from it."""
LABELS_CHANGED: Final = "its labels were changed"
"""Why a pod of ours is no replica's."""


@dataclass(slots=True)
class Steps:
    """Actions for a replica, and times at which to look again.

    Attributes:
        restart_at: when the next pod that waits for its back-off is made; None when none waits.
    """

    actions: list[Action] = field(default_factory=list)
    wakes: list[float] = field(default_factory=list)
    restart_at: float | None = None


def heal(
    replica: Replica, plan: RevisionPlan, owner: Owner, gang: Gang, books: Books, restart: Restart, now: float
) -> Steps:
    """Bring a replica's pods to one live pod in each slot. Pods that are being deleted block nobody."""
    steps = Steps()
    for slot, memory in zip(replica.slots, books.slots, strict=True):
        if slot.live is None:
            due = due_at(memory, books.used, restart)
            if due <= now:
                why = f"{slot.title} of replica {replica.number}" + (" is missing" if slot.next_incarnation else "")
                steps.actions.append(Create(_pod(slot, replica, plan, owner, gang), why))
            else:
                steps.wakes.append(due)
                steps.restart_at = min(due, steps.restart_at or due)
        for pod in slot.pods:
            if pod is slot.live:
                continue
            if pod.gone_at is not None:
                _finish(pod, steps, now)
            elif not pod.has_ended:
                steps.actions.append(_delete(pod, f"{slot.live.name if slot.live else ''} has taken its place"))
            elif is_counted(pod, slot.memory):
                steps.actions.append(_delete(pod, "it ended; the status says how"))
            else:
                steps.wakes.append(now)  # the status has to say it first
    _remove(replica.strays, LABELS_CHANGED, steps, now)
    return steps


def remove(strays: Iterable[Stray], now: float) -> Steps:
    """Delete pods that no replica can count as its own."""
    steps = Steps()
    _remove(strays, LABELS_CHANGED, steps, now)
    return steps


def dismiss(pods: Iterable[PodSummary], why: str, now: float) -> Steps:
    """Drain: delete all pods of a replica, gracefully; the head first, since stages ask it whether to stay."""
    steps = Steps()
    in_order = sorted(pods, key=lambda pod: (not pod.is_head, pod.stage or 0, pod.incarnation))
    _remove(in_order, why, steps, now)
    return steps


def delete_child(child: Child, why: str) -> Delete:
    """Delete an object that is not a pod."""
    return Delete(Ref(child.api_version, child.kind, child.name), child.uid, child.resource_version, why)


def _remove(pods: Iterable[PodSummary | Stray], why: str, steps: Steps, now: float) -> None:
    for pod in pods:
        if pod.gone_at is None:
            steps.actions.append(_delete(pod, why))
        else:
            _finish(pod, steps, now)


def _finish(pod: PodSummary | Stray, steps: Steps, now: float) -> None:
    """A pod that is being deleted: its node has to end it in time. After a forced deletion (grace 0) only a finalizer
    can hold it, which is not ours to remove."""
    if pod.gone_at is None or pod.grace == 0:
        return
    late_at = pod.gone_at + FORCE_AFTER_SECONDS
    if now >= late_at:
        why = f"node {pod.node or '(none)'} did not end it {FORCE_AFTER_SECONDS} s after its grace period"
        steps.actions.append(ForceDelete(Ref(*POD, pod.name), pod.uid, why))
    else:
        steps.wakes.append(late_at)


def _delete(pod: PodSummary | Stray, why: str) -> Delete:
    return Delete(Ref(*POD, pod.name), pod.uid, pod.resource_version, why)


def _pod(slot: Slot, replica: Replica, plan: RevisionPlan, owner: Owner, gang: Gang) -> Body:
    epoch = replica.memory.epoch or 0 if replica.memory is not None else 0
    if replica.answer is not None and replica.answer.state is not None:
        epoch = replica.answer.state.epoch
    if slot.stage is None:
        return head_pod(plan, owner, replica.number, slot.next_incarnation, epoch, gang)
    return stage_pod(plan, owner, replica.number, slot.stage, slot.next_incarnation, epoch, gang)
