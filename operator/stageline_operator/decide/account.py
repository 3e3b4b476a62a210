"""The books of a replica: which failures were counted, how much of each cause's budget is used, when to try again.

They live in the status alone. A failure is counted there before anything that shows it is deleted, so a process that
dies in between loses none and counts none twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from stageline_operator.api.conditions import Cause
from stageline_operator.api.restart import Restart
from stageline_operator.api.status import Failure, PodStatus, ReplicaStatus, RestartCount
from stageline_operator.decide.failures import end_of, latest_restart, restarts_of, vanished
from stageline_operator.decide.observed import PodSummary
from stageline_operator.decide.replicas import Replica, Slot
from stageline_operator.decide.times import to_seconds, to_text

_BUDGET_FIELDS: Mapping[Cause, str] = {
    Cause.NODE_LOST: "node_lost",
    Cause.OUT_OF_MEMORY: "out_of_memory",
    Cause.COMMUNICATION: "communication",
    Cause.CONFIGURATION: "configuration",
    Cause.CRASH: "crash",
}


@dataclass(frozen=True, slots=True)
class Counted:
    """A failure that was not in the status before.

    Attributes:
        stage: None for the head.
        times: how many restarts of this cause it stands for.
        is_end: the pod itself is over; else the kubelet restarted its container.
    """

    stage: int | None
    failure: Failure
    times: int
    is_end: bool


@dataclass(frozen=True, slots=True)
class Books:
    """A replica's books after everything observed was counted.

    Attributes:
        slots: what the status is to say of each slot, in the replica's order.
        used: restarts by cause.
        counted: what was counted just now.
    """

    slots: tuple[PodStatus, ...]
    used: dict[Cause, int]
    counted: tuple[Counted, ...]

    @property
    def latest(self) -> Failure | None:
        """The latest failure of all slots."""
        failures = [slot.last_failure for slot in self.slots if slot.last_failure is not None]
        return max(failures, key=lambda failure: failure.time, default=None)


def account(replica: Replica, used_before: Mapping[Cause, int], now: float) -> Books:
    """Count what the status does not know yet.

    Args:
        used_before: used restarts by cause, so far.
    """
    used = Counter(used_before)
    slots: list[PodStatus] = []
    counted: list[Counted] = []
    for slot in replica.slots:
        memory = slot.memory
        for each, memory_after in _uncounted(slot, now):
            memory = memory_after
            used[each.failure.cause] += each.times
            counted.append(each)
        slots.append(_current(slot, memory))
    return Books(tuple(slots), dict(used), tuple(counted))


def used_by(memory: ReplicaStatus | None) -> dict[Cause, int]:
    """Used restarts by cause."""
    return {} if memory is None else {count.cause: count.used for count in memory.restarts}


def restart_counts(used: Mapping[Cause, int]) -> tuple[RestartCount, ...]:
    """The same as the status has it."""
    return tuple(RestartCount(cause=cause, used=used[cause]) for cause in Cause if used.get(cause))


def budget_of(restart: Restart, cause: Cause) -> int:
    """Restarts that a cause may use."""
    budget: int = getattr(restart.budget, _BUDGET_FIELDS[cause])
    return budget


def exhausted(restart: Restart, used: Mapping[Cause, int]) -> Cause | None:
    """A cause that used more than its budget."""
    return next((cause for cause in Cause if used.get(cause, 0) > budget_of(restart, cause)), None)


def back_off(restart: Restart, used: int) -> float:
    """Seconds between a failure and the next try, when this was the ``used``-th: none after the first, then doubled."""
    if used <= 1:
        return 0.0
    return float(min(restart.max_backoff_seconds, restart.backoff_seconds * 2 ** min(used - 2, 30)))


def due_at(memory: PodStatus, used: Mapping[Cause, int], restart: Restart) -> float:
    """When a slot without a live pod may get one."""
    failure = memory.last_failure
    if failure is None:
        return 0.0
    return to_seconds(failure.time) + back_off(restart, used.get(failure.cause, 0))


def is_counted(pod: PodSummary, memory: PodStatus) -> bool:
    """The end of this pod is in the status, so that the pod itself may be deleted."""
    if memory.incarnation > pod.incarnation:
        return True
    return not memory.pod and memory.last_failure is not None and memory.last_failure.pod == pod.name


def _uncounted(slot: Slot, now: float) -> list[tuple[Counted, PodStatus]]:
    """Failures of a slot that its memory lacks, and the memory with them counted."""
    memory = slot.memory
    found: list[tuple[Counted, PodStatus]] = []
    if memory.pod and all(pod.name != memory.pod for pod in slot.pods):
        failure = vanished(memory.pod, now)
        memory = memory.model_copy(update={"pod": "", "last_failure": failure})
        found.append((Counted(slot.stage, failure, 1, True), memory))
    for pod in slot.pods:
        if is_counted(pod, memory):
            continue
        is_known = memory.pod == pod.name
        restarts, restart = restarts_of(pod) - (memory.restarts if is_known else 0), latest_restart(pod)
        if restarts > 0 and restart is not None:
            memory = _remember(pod, restart, pod.name)
            found.append((Counted(slot.stage, restart, restarts, False), memory))
        if pod.has_ended or pod.gone_at is not None:
            failure = end_of(pod)
            memory = _remember(pod, failure, "")
            found.append((Counted(slot.stage, failure, 1, True), memory))
    return found


def _remember(pod: PodSummary, failure: Failure, name: str) -> PodStatus:
    return PodStatus(pod=name, incarnation=pod.incarnation, restarts=restarts_of(pod), last_failure=failure)


def _current(slot: Slot, memory: PodStatus) -> PodStatus:
    """What the status says of a slot now."""
    pod = slot.live
    if pod is None:
        return memory.model_copy(update={"node": "", "ready": False, "ready_since": None})
    return PodStatus(
        pod=pod.name,
        node=pod.node,
        ready=pod.ready,
        ready_since=to_text(pod.ready_changed_at) if pod.ready and pod.ready_changed_at is not None else None,
        incarnation=pod.incarnation,
        restarts=restarts_of(pod),
        last_failure=memory.last_failure,
    )
