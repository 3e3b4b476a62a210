"""Where a stage's time goes between two steps, in seconds by cause."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec


class StepTimes(msgspec.Struct):
    """Field names as in :class:`StepReport`; what is missing to the wall time is overhead."""

    busy: float = 0.0
    wait_schedule: float = 0.0
    wait_feedback: float = 0.0
    wait_upstream: float = 0.0
    wait_downstream: float = 0.0


class StepClock:
    """Adds up spans until they are taken."""

    def __init__(self) -> None:
        self._times = StepTimes()

    @contextmanager
    def span(self, cause: str) -> Iterator[None]:
        """Charge the time inside to ``cause``, a field of StepTimes; spans do not nest."""
        began = time.perf_counter()
        try:
            yield
        finally:
            setattr(self._times, cause, getattr(self._times, cause) + time.perf_counter() - began)

    def take(self) -> StepTimes:
        """What was charged since the last call."""
        times, self._times = self._times, StepTimes()
        return times
