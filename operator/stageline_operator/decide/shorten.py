"""Keeps the list of replicas in the status far below what etcd takes, without losing what the operator remembers.

What must stay of a pod: its name, incarnation and counted restarts; and of one that ended, how its end is called, of
which pod and when, since the back-off counts from there. The rest is for people, and goes first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, TypeVar

from stageline_operator.api.conditions import ReplicaPhase
from stageline_operator.api.constants import MAX_LISTED
from stageline_operator.api.status import Failure, PodStatus, ReplicaStatus, StageStatus

Entries = tuple[ReplicaStatus, ...]
Pod = TypeVar("Pod", bound=PodStatus)

BUDGET: Final = 512 * 1024
"""Bytes of the list. etcd takes 1.5 MiB, and spec, conditions and values in force need room beside it."""
MOST_LOGS: Final = 20
"""Failures that keep their log lines; the latest."""


def shorten(entries: Iterable[ReplicaStatus]) -> Entries:
    """The list as it is written: each step only when those before it were not enough. Replicas that drain are the ones
    to leave out when there are too many: nothing of them has to be remembered."""
    kept = tuple(entries)
    if len(kept) > MAX_LISTED:
        kept = tuple(entry for entry in kept if entry.phase is not ReplicaPhase.DRAINING)[:MAX_LISTED]
    kept = _latest_logs(kept)
    for step in (_without_logs, _without_calm_stages, _bare):
        if size(kept) <= BUDGET:
            break
        kept = step(kept)
    return kept


def size(entries: Entries) -> int:
    """Bytes of the list as JSON."""
    return sum(len(entry.model_dump_json(by_alias=True, exclude_none=True).encode()) + 1 for entry in entries)


def _latest_logs(entries: Entries) -> Entries:
    with_logs = [failure for failure in _failures(entries) if failure.log_tail]
    latest = sorted(with_logs, key=lambda failure: (failure.time, failure.pod), reverse=True)[:MOST_LOGS]
    if len(with_logs) == len(latest):
        return entries
    return _changed(entries, lambda failure: failure if failure in latest else _quiet(failure))


def _without_logs(entries: Entries) -> Entries:
    return _changed(entries, _quiet)


def _without_calm_stages(entries: Entries) -> Entries:
    """Of replicas that are ready, only stages of which more is to be said than that they are."""
    return tuple(
        entry.model_copy(update={"stages": tuple(stage for stage in entry.stages if not _is_calm(stage))})
        if entry.phase is ReplicaPhase.READY
        else entry
        for entry in entries
    )


def _bare(entries: Entries) -> Entries:
    """No more than what has to be remembered."""
    return tuple(
        entry.model_copy(
            update={"head": _bare_pod(entry.head), "stages": tuple(_bare_pod(stage) for stage in entry.stages)}
        )
        for entry in entries
    )


def _is_calm(stage: StageStatus) -> bool:
    return stage.ready and not (stage.incarnation or stage.restarts or stage.last_failure)


def _bare_pod(pod: Pod) -> Pod:
    failure = pod.last_failure
    if pod.pod:
        failure = None  # it was counted, and the back-off counts from an end alone
    elif failure is not None:
        failure = Failure(cause=failure.cause, pod=failure.pod, time=failure.time)
    return pod.model_copy(update={"node": "", "ready_since": None, "last_failure": failure})


def _failures(entries: Entries) -> Iterable[Failure]:
    pods = (pod for entry in entries for pod in (entry.head, *entry.stages))
    return (pod.last_failure for pod in pods if pod.last_failure is not None)


def _changed(entries: Entries, change: Callable[[Failure], Failure]) -> Entries:
    def of_pod(pod: Pod) -> Pod:
        if pod.last_failure is None:
            return pod
        return pod.model_copy(update={"last_failure": change(pod.last_failure)})

    return tuple(
        entry.model_copy(update={"head": of_pod(entry.head), "stages": tuple(map(of_pod, entry.stages))})
        for entry in entries
    )


def _quiet(failure: Failure) -> Failure:
    return failure.model_copy(update={"log_tail": ""}) if failure.log_tail else failure
