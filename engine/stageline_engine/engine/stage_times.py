"""Where each stage's time goes, as sums that add up to the time since the engine was ready. Reads no clock.

A stage tells with each step how it spent the time since its step before: all of it, so nothing is missing and nothing
counts twice. What it cannot know is whether a wait for a plan was a bubble or whether there was nothing to do. That the
engine loop knows: while no sequence lives and no step is in flight, all stages are idle, and as much is taken off the
wait for a plan with which a stage accounts for the same time later.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import msgspec

from stageline_engine.core.messages import StageStats, StepReport

WORKED = ("busy", "wait_schedule", "wait_feedback", "wait_upstream", "wait_downstream", "communicating")
"""Fields of StageStats, in seconds, that with ``idle`` add up to the time since the start."""
LATELY_SECONDS = 30.0
"""Time with work over which :class:`Lately` looks back."""


class StageTimes:
    """Sums of all stages since ``now``, which is when the stages were ready: idle until there is work."""

    def __init__(self, num_stages: int, now: float) -> None:
        self._stages = [StageStats() for _ in range(num_stages)]
        self._began_at = now
        self._idle = 0.0
        self._idle_since: float | None = now
        self._unmatched = [0.0] * num_stages
        """Idle time that is still to be taken off the waits that a stage will report."""
        self._epochs = [0] * num_stages

    def saw_work(self, has_work: bool, now: float) -> None:
        """Whether any sequence lives or any step is in flight; to be told at least when that changes."""
        if has_work and self._idle_since is not None:
            spent = max(0.0, now - self._idle_since)
            self._idle += spent
            self._unmatched = [unmatched + spent for unmatched in self._unmatched]
            self._idle_since = None
        elif not has_work and self._idle_since is None:
            self._idle_since = now

    def saw_report(self, report: StepReport, now: float) -> None:
        """Add one stage's account of one step."""
        stage, old = report.stage, self._stages[report.stage]
        idle = min(self._unmatched[stage], report.wait_schedule)
        wait_schedule = report.wait_schedule - idle
        self._unmatched[stage] -= idle
        added = msgspec.structs.replace(
            old,
            steps=old.steps + 1,
            busy=old.busy + report.busy,
            wait_schedule=old.wait_schedule + wait_schedule,
            wait_feedback=old.wait_feedback + report.wait_feedback,
            wait_upstream=old.wait_upstream + report.wait_upstream,
            wait_downstream=old.wait_downstream + report.wait_downstream,
            communicating=old.communicating + report.communicating,
            boundary_bytes=old.boundary_bytes + report.boundary_bytes,
        )
        if report.epoch != self._epochs[stage]:
            # Before its first step a stage waited for the others to load: that is before the time that counts.
            self._epochs[stage] = report.epoch
            excess = _worked(added) + self._idle - (now - self._began_at)
            wait_schedule = max(old.wait_schedule, added.wait_schedule - max(0.0, excess))
            added = msgspec.structs.replace(added, wait_schedule=wait_schedule)
        self._stages[stage] = added

    def sums(self, now: float) -> list[StageStats]:
        """Of all stages; what a step in flight takes is in them when that stage has ended it."""
        idle = self._idle if self._idle_since is None else self._idle + max(0.0, now - self._idle_since)
        return [msgspec.structs.replace(stage, idle=idle) for stage in self._stages]


class Balance(msgspec.Struct, frozen=True):
    """How evenly stages worked between two states of their sums."""

    efficiency: float
    """Busy share of the time with work, over all stages; 0 when there was none."""
    loads: tuple[float, ...]
    """Busy seconds of each stage ÷ their mean; all 1 when none was busy."""


def balance(before: Sequence[StageStats], after: Sequence[StageStats]) -> Balance:
    """Of what lies between ``before`` and ``after``."""
    busy = [new.busy - old.busy for old, new in zip(before, after, strict=True)]
    worked = sum(_worked(new) - _worked(old) for old, new in zip(before, after, strict=True))
    mean = sum(busy) / len(busy)
    return Balance(
        efficiency=sum(busy) / worked if worked > 0 else 0.0,
        loads=tuple(seconds / mean for seconds in busy) if mean > 0 else (1.0,) * len(busy),
    )


class Lately:
    """The balance of the newest time with work, about LATELY_SECONDS of it; time without work does not count."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, Sequence[StageStats]]] = deque()

    def balance(self, sums: Sequence[StageStats]) -> Balance:
        """Takes the sums of now; to be called often."""
        worked = max(map(_worked, sums))
        if not self._seen or worked > self._seen[-1][0]:
            self._seen.append((worked, sums))
        while len(self._seen) > 2 and worked - self._seen[1][0] >= LATELY_SECONDS:
            self._seen.popleft()
        return balance(self._seen[0][1], sums)


def _worked(stage: StageStats) -> float:
    return float(sum(getattr(stage, name) for name in WORKED))
