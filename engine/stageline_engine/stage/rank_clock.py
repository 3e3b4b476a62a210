"""Where a stage's time goes between two steps, in seconds by cause."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec


class StepTimes(msgspec.Struct):
    """Field names as in :class:`StepReport`."""

    busy: float = 0.0
    wait_schedule: float = 0.0
    wait_feedback: float = 0.0
    wait_upstream: float = 0.0
    wait_downstream: float = 0.0
    communicating: float = 0.0


class StepClock:
    """Adds up spans until they are taken; what no span has is communication, so that no time is lost."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._times = StepTimes()
        self._taken_at = clock()

    @contextmanager
    def span(self, cause: str) -> Iterator[None]:
        """Charge the time inside to ``cause``, a field of StepTimes; spans do not nest."""
        began = self._clock()
        try:
            yield
        finally:
            setattr(self._times, cause, getattr(self._times, cause) + self._clock() - began)

    def take(self) -> StepTimes:
        """The time since the last call, by cause."""
        times, self._times = self._times, StepTimes()
        now = self._clock()
        charged = sum(getattr(times, name) for name in times.__struct_fields__)
        times.communicating = max(0.0, now - self._taken_at - charged)
        self._taken_at = now
        return times
