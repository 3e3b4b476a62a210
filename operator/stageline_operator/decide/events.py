"""Events: one for each change of state that a person would ask about, from the status before and after."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, Literal

from stageline_operator.api.conditions import ConditionType, Reason, ReplicaPhase
from stageline_operator.api.status import InferenceDeploymentStatus, ReplicaStatus
from stageline_operator.decide.account import Counted
from stageline_operator.decide.actions import Action, EmitEvent, ForceDelete, Ref
from stageline_operator.decide.failures import describe
from stageline_operator.decide.outcome import Outcome
from stageline_operator.objects.pod import POD

_ROLLING: Final = (Reason.ROLLING_OUT, Reason.ROLLOUT_PAUSED, Reason.ROLLOUT_STOPPED)


def events(outcome: Outcome, after: InferenceDeploymentStatus, actions: Iterable[Action]) -> list[EmitEvent]:
    """What happened since the status was last written. A process that dies before it writes the status tells it
    again."""
    before = outcome.spec.status
    told = list(_of_replicas(before, after))
    for course in outcome.courses:
        told += [_of_failure(counted) for counted in course.books.counted]
    for action in actions:
        if isinstance(action, ForceDelete):
            told.append(
                _event("Warning", Reason.POD_FORCE_DELETED, f"{action.ref.name}: {action.why}", action.ref.name)
            )
    told += _of_conditions(before, after)
    return told


def _of_failure(counted: Counted) -> EmitEvent:
    reason = Reason.HEAD_REPLACED if counted.stage is None else Reason.STAGE_REPLACED
    if not counted.is_end:
        reason = Reason.CONTAINER_RESTARTED
    pod = counted.failure.pod
    return _event("Warning", reason, f"{pod} ended: {describe(counted.failure)}", pod)


def _of_replicas(before: InferenceDeploymentStatus, after: InferenceDeploymentStatus) -> Iterator[EmitEvent]:
    was = {entry.replica: entry for entry in before.replica_list}
    for entry in after.replica_list:
        yield from _of_replica(was.pop(entry.replica, None), entry)
    for entry in was.values():
        if entry.phase is ReplicaPhase.DRAINING:
            yield _event("Normal", Reason.REPLICA_DELETED, f"replica {entry.replica} is gone")


def _of_replica(was: ReplicaStatus | None, entry: ReplicaStatus) -> Iterator[EmitEvent]:
    title = f"replica {entry.replica}"
    if was is None and entry.phase is not ReplicaPhase.DRAINING:
        yield _event("Normal", Reason.REPLICA_CREATED, f"{title} of revision {entry.revision} is made")
    if was is not None and was.phase is entry.phase:
        return
    if entry.phase is ReplicaPhase.READY:
        if was is not None and was.phase is ReplicaPhase.RECOVERING:
            yield _event("Normal", Reason.REPLICA_RECOVERED, f"{title} is ready again")
        else:
            yield _event("Normal", Reason.REPLICA_READY, f"{title} is ready")
    elif entry.phase is ReplicaPhase.RECOVERING and was is not None and was.phase is ReplicaPhase.READY:
        if not _has_failed(entry, was.ready_since or ""):  # that was told already
            yield _event("Warning", Reason.REPLICA_NOT_READY, f"{title} is not ready any more; {_not_ready(entry)}")
    elif entry.phase is ReplicaPhase.DRAINING:
        yield _event("Normal", Reason.REPLICA_DRAINING, f"{title} of revision {entry.revision} drains")
    elif entry.phase is ReplicaPhase.FAILED:
        reason = Reason.BUDGET_EXHAUSTED if entry.next_restart is None else Reason.REPLICA_DEADLINE
        yield _event("Warning", reason, f"{title}: {entry.message}")


def _has_failed(entry: ReplicaStatus, since: str) -> bool:
    """A pod that is not ready now has failed since then."""
    failures = (pod.last_failure for pod in (entry.head, *entry.stages) if not pod.ready)
    return any(failure is not None and failure.time >= since for failure in failures)


def _not_ready(entry: ReplicaStatus) -> str:
    """Which pods are not."""
    names = [pod.pod for pod in (entry.head, *entry.stages) if not pod.ready and pod.pod]
    return f"not ready: {', '.join(names[:8])}"


def _of_conditions(before: InferenceDeploymentStatus, after: InferenceDeploymentStatus) -> Iterator[EmitEvent]:
    was = {condition.type: condition for condition in before.conditions}
    for condition in after.conditions:
        old = was.get(condition.type)
        if old is not None and (old.status, old.reason) == (condition.status, condition.reason):
            continue
        reason = Reason(condition.reason)
        was_true = old is not None and old.status == "True"
        if condition.type is ConditionType.AVAILABLE:
            yield from _of_availability(was_true, condition.status == "True", reason, condition.message)
        elif condition.type is ConditionType.DEGRADED and condition.status == "False" and old is not None and was_true:
            yield _event("Normal", Reason.AS_EXPECTED, f"{old.reason} is over")
        elif condition.type is ConditionType.DEGRADED and (condition.status == "True" or reason is Reason.NO_GANG):
            # These are told with their replica, and with Progressing.
            if reason not in (Reason.BUDGET_EXHAUSTED, Reason.REPLICA_DEADLINE, Reason.ROLLOUT_STOPPED):
                yield _event("Warning", reason, condition.message)
        elif condition.type is ConditionType.PROGRESSING:
            is_rolled = before.settled_revision not in ("", after.settled_revision)
            is_back = old is not None and old.reason in _ROLLING
            yield from _of_progress(is_rolled or is_back, reason, condition.message)


def _of_availability(was: bool, holds: bool, reason: Reason, message: str) -> Iterator[EmitEvent]:
    if holds and not was:
        yield _event("Normal", reason, message)
    elif was and not holds:
        yield _event("Normal" if reason is Reason.SCALED_TO_ZERO else "Warning", reason, message)


def _of_progress(has_rolled: bool, reason: Reason, message: str) -> Iterator[EmitEvent]:
    if reason is Reason.UP_TO_DATE:
        if has_rolled:
            yield _event("Normal", Reason.ROLLOUT_COMPLETE, message)
    elif reason in (Reason.ROLLING_OUT, Reason.ROLLOUT_PAUSED):
        yield _event("Normal", reason, message)
    elif reason in (Reason.ROLLOUT_STOPPED, Reason.WAITING_FOR_SCHEDULING, Reason.BACKING_OFF):
        yield _event("Warning", reason, message)


def _event(kind: Literal["Normal", "Warning"], reason: Reason, message: str, pod: str | None = None) -> EmitEvent:
    return EmitEvent(kind, reason, message, None if pod is None else Ref(*POD, pod))
