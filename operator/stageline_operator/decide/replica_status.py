"""One replica's entry in the status: the operator's memory of it, and what a person reads."""

from __future__ import annotations

from stageline_operator.api.conditions import ReplicaPhase
from stageline_operator.api.status import PodStatus, ReplicaStatus, StageStatus
from stageline_operator.decide.account import restart_counts
from stageline_operator.decide.deadlines import troubles
from stageline_operator.decide.observed import PodSummary
from stageline_operator.decide.outcome import Course, Outcome
from stageline_operator.decide.replicas import Replica
from stageline_operator.decide.times import text_or_none, to_text

MESSAGE_LIMIT = 1024
"""Characters of a message in the status."""


def staying(course: Course, now: float) -> ReplicaStatus:
    """A replica that stays, or that was given up just now."""
    replica, times, given_up = course.replica, course.times, course.given_up
    restart_at = course.steps.restart_at
    if given_up is not None:
        restart_at = given_up.retry_at
    return ReplicaStatus(
        replica=replica.number,
        revision=replica.revision,
        phase=ReplicaPhase.FAILED if given_up is not None else _phase(course),
        created=to_text(min(replica.created_at, now)),
        ready_since=text_or_none(times.ready),
        not_ready_since=text_or_none(times.not_ready),
        placed_since=text_or_none(times.placed),
        epoch=_epoch(replica),
        head=course.books.slots[0],
        stages=_stages(replica, course.books.slots),
        restarts=restart_counts(given_up.used if given_up is not None else course.books.used),
        next_restart=text_or_none(restart_at),
        message=cut(given_up.message if given_up is not None else _message(course)),
    )


def draining(replica: Replica, now: float) -> ReplicaStatus:
    """A replica that is being drained."""
    memory = replica.memory
    return ReplicaStatus(
        replica=replica.number,
        revision=replica.revision,
        phase=ReplicaPhase.DRAINING,
        created=to_text(min(replica.created_at, now)),
        epoch=_epoch(replica),
        head=PodStatus(pod=_name(replica.head.pods), node=_node(replica.head.pods)),
        stages=tuple(
            StageStatus(stage=slot.stage, pod=_name(slot.pods), node=_node(slot.pods))
            for slot in replica.slots
            if slot.stage is not None
        ),
        message=memory.message if memory is not None and memory.phase is ReplicaPhase.DRAINING else "",
    )


def waiting(replica: Replica, outcome: Outcome) -> list[ReplicaStatus]:
    """A replica that was given up before; when another may be made in its stead, it says since when."""
    memory = replica.memory
    if memory is None:
        return []
    if replica in outcome.fleet.held or memory.next_restart is not None:
        return [memory]
    return [memory.model_copy(update={"next_restart": to_text(outcome.now), "restarts": ()})]


def cut(message: str) -> str:
    """A message of at most MESSAGE_LIMIT characters."""
    return message if len(message) <= MESSAGE_LIMIT else message[: MESSAGE_LIMIT - 1] + "…"


def unplaced(replica: Replica) -> list[PodSummary]:
    """Pods that wait for a node."""
    pods = [slot.live for slot in replica.slots]
    return [pod for pod in pods if pod is not None and pod.scheduled_at is None]


def _phase(course: Course) -> ReplicaPhase:
    if course.times.ready is not None:
        return ReplicaPhase.READY
    if course.times.not_ready is not None:
        return ReplicaPhase.RECOVERING
    return ReplicaPhase.STARTING if course.replica.is_placed else ReplicaPhase.PENDING


def _message(course: Course) -> str:
    replica = course.replica
    if replica.plan is None:
        return "this operator cannot read its revision, so it is not healed but replaced"
    if found := troubles(replica):
        return "; ".join(found)
    if course.steps.restart_at is not None:
        return f"waits until {to_text(course.steps.restart_at)} before its next restart"
    for pod in unplaced(replica):
        if pod.unschedulable:
            return f"{pod.name} finds no node: {pod.unschedulable}"
    return _message_of_head(replica)


def _message_of_head(replica: Replica) -> str:
    """What is odd about a head that its kubelet calls ready; what it said before that, or did not say, is no news."""
    answer = replica.answer
    if not replica.is_ready or answer is None or not replica.has_told:
        return ""
    if answer.state is None:
        return f"serves, but its head does not tell the operator its state: {answer.error}"
    return "its head ends as soon as running requests have, though nobody deletes it" if answer.state.draining else ""


def _epoch(replica: Replica) -> int | None:
    if replica.answer is not None and replica.answer.state is not None:
        return replica.answer.state.epoch
    return replica.memory.epoch if replica.memory is not None else None


def _stages(replica: Replica, slots: tuple[PodStatus, ...]) -> tuple[StageStatus, ...]:
    return tuple(
        StageStatus(stage=slot.stage, **{name: getattr(status, name) for name in PodStatus.model_fields})
        for slot, status in zip(replica.slots, slots, strict=True)
        if slot.stage is not None
    )


def _name(pods: tuple[PodSummary, ...]) -> str:
    return pods[-1].name if pods else ""


def _node(pods: tuple[PodSummary, ...]) -> str:
    return pods[-1].node if pods else ""
