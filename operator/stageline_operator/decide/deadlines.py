"""Since when a replica is placed, ready, not ready; and when it is given up."""

from __future__ import annotations

from dataclasses import dataclass

from stageline_operator.api.conditions import Cause, Reason
from stageline_operator.api.restart import Restart
from stageline_operator.decide.account import Books, back_off, budget_of, exhausted
from stageline_operator.decide.failures import cannot_start, describe, misses_secret
from stageline_operator.decide.replicas import Replica
from stageline_operator.decide.times import seconds_or_none, to_seconds


@dataclass(frozen=True, slots=True)
class Clock:
    """Times of a replica, in seconds since 1970; None: not so.

    Attributes:
        placed: since when all its pods have nodes, or first had; deadlines of the start count from here.
        ready: since when it is ready.
        not_ready: since when it is not, if it ever was; deadlines of recovery count from here.
    """

    placed: float | None
    ready: float | None
    not_ready: float | None


@dataclass(frozen=True, slots=True)
class GivenUp:
    """The end of a replica.

    Attributes:
        used: its books, with this end counted.
        retry_at: when another may be made in its stead; None: never, until the spec changes.
    """

    reason: Reason
    message: str
    used: dict[Cause, int]
    retry_at: float | None


def clock(replica: Replica, now: float) -> Clock:
    """The times, from the pods, and from the status where pods cannot tell any more."""
    memory = replica.memory
    placed = seconds_or_none(memory.placed_since) if memory is not None else None
    if placed is None and replica.is_placed:
        placed = max(slot.live.scheduled_at or 0.0 for slot in replica.slots if slot.live is not None)
    head = replica.head.live
    if placed is not None and memory is None and head is not None and not head.ready:
        # Nobody remembers whether it was ready before; its deadline begins when it last could have been.
        placed = max(placed, head.ready_changed_at or 0.0)
    if replica.is_ready and head is not None:
        return Clock(placed, head.ready_changed_at or head.created_at, None)
    was_ready = memory is not None and (memory.ready_since is not None or memory.not_ready_since is not None)
    not_ready = (seconds_or_none(memory.not_ready_since) or now) if memory is not None and was_ready else None
    return Clock(placed, None, not_ready)


def reset_at(times: Clock, books: Books, restart: Restart) -> float | None:
    """When the books begin anew; None when they are empty or the replica is not ready."""
    if times.ready is None or not any(books.used.values()):
        return None
    return times.ready + restart.reset_seconds


def deadline(times: Clock, restart: Restart) -> float | None:
    """When the replica is given up if it is not ready until then; None when nothing presses: it is ready, or waits for
    nodes."""
    if times.ready is not None:
        return None
    if times.not_ready is not None:
        return times.not_ready + restart.recovery_deadline_seconds
    return None if times.placed is None else times.placed + restart.replica_deadline_seconds


def judge(replica: Replica, books: Books, times: Clock, restart: Restart, secret: str, now: float) -> GivenUp | None:
    """Whether the replica is given up: a cause used up its budget, its deadline passed, or its keys are lost. One that
    serves is never given up.

    Args:
        secret: name of the group Secret.
    """
    if _keys_are_lost(replica, secret):
        message = f"Secret {secret} was deleted; its pods have keys that no new pod has"
        return _with_retry(Cause.CONFIGURATION, Reason.POD_CANNOT_START, message, books, restart, now)
    if times.ready is not None:
        return None
    cause = exhausted(restart, books.used)
    if cause is not None:
        same = [each.failure for each in books.counted if each.failure.cause is cause]
        latest = same[-1] if same else books.latest
        ending = f": {latest.pod}: {describe(latest)}" if latest is not None else ""
        message = f"{cause} happened more often than spec.restart.budget allows ({budget_of(restart, cause)}){ending}"
        return GivenUp(Reason.BUDGET_EXHAUSTED, message, books.used, None)
    limit = deadline(times, restart)
    if limit is None or now < limit:
        return None
    seconds = restart.recovery_deadline_seconds if times.not_ready is not None else restart.replica_deadline_seconds
    why = _why_not_ready(replica)
    message = f"not ready within {seconds} s" + (f": {why}" if why else "")
    return _with_retry(
        _cause_of_delay(replica, books, limit - seconds), Reason.REPLICA_DEADLINE, message, books, restart, now
    )


def _with_retry(cause: Cause, reason: Reason, message: str, books: Books, restart: Restart, now: float) -> GivenUp:
    used = {**books.used, cause: books.used.get(cause, 0) + 1}
    if used[cause] > budget_of(restart, cause):
        return GivenUp(reason, f"{message}; spec.restart.budget for {cause} is used up", used, None)
    return GivenUp(reason, message, used, now + back_off(restart, used[cause]))


def _cause_of_delay(replica: Replica, books: Books, since: float) -> Cause:
    latest = books.latest
    if latest is not None and to_seconds(latest.time) >= since - 1:
        return latest.cause
    return Cause.CONFIGURATION if troubles(replica) else Cause.CRASH


def _why_not_ready(replica: Replica) -> str:
    found = troubles(replica)
    if found:
        return found[0]
    waiting = [slot.title for slot in replica.slots if slot.live is None or not slot.live.ready]
    return f"waiting for {', '.join(waiting[:8])}" if waiting else ""


def troubles(replica: Replica) -> list[str]:
    """What the kubelets say about containers that cannot be started."""
    image = replica.plan.image if replica.plan is not None else ""
    found = []
    for slot in replica.slots:
        if slot.live is not None and (sentence := cannot_start(slot.live, image)):
            found.append(f"{slot.title}: {sentence}")
    return found


def _keys_are_lost(replica: Replica, secret: str) -> bool:
    """Some pods have keys, and another cannot get the same."""
    pods = [slot.live for slot in replica.slots if slot.live is not None]
    return any(misses_secret(pod, secret) for pod in pods) and any(
        container.running for pod in pods for container in pod.containers
    )
