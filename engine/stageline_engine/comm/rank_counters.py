"""What a rank counts of itself, in memory that it shares with the agent that had it made.

A rank writes it with each step, and nobody is told: whoever is asked reads it. Each number is read whole, but one that
belongs to a step may be there before another one of the same step.
"""

from __future__ import annotations

import mmap
import os

import msgspec


class RankCounts(msgspec.Struct, frozen=True):
    """Sums since the rank's process began, and how it is now. Times are in seconds, as in StepReport."""

    epoch: float = 0.0
    """0 before the first."""
    weight_bytes: float = 0.0
    kv_bytes: float = 0.0
    load_seconds: float = 0.0
    """That loading the weights took."""
    warm_up_seconds: float = 0.0
    steps: float = 0.0
    rows: float = 0.0
    busy: float = 0.0
    wait_schedule: float = 0.0
    """No plan was there, whether or not there was work."""
    wait_feedback: float = 0.0
    wait_upstream: float = 0.0
    wait_downstream: float = 0.0
    communicating: float = 0.0
    boundary_bytes: float = 0.0
    """That this rank sent to the next stage."""


_INDEX = {name: index for index, name in enumerate(RankCounts.__struct_fields__)}
_BYTES = 8 * len(_INDEX)


class RankCounters:
    """One rank's. The agent makes it, and gives ``descriptor`` to the rank, which opens it by that."""

    def __init__(self, descriptor: int | None = None) -> None:
        if descriptor is None:
            descriptor = os.memfd_create("rank-counters", os.MFD_CLOEXEC)
            os.ftruncate(descriptor, _BYTES)
        self.descriptor = descriptor
        self._memory = mmap.mmap(descriptor, _BYTES)
        self._values = memoryview(self._memory).cast("d")

    def add(self, **amounts: float) -> None:
        """Names are those of :class:`RankCounts`."""
        for name, amount in amounts.items():
            self._values[_INDEX[name]] += amount

    def set(self, **values: float) -> None:
        """Names are those of :class:`RankCounts`."""
        for name, value in values.items():
            self._values[_INDEX[name]] = value

    def read(self) -> RankCounts:
        """As of now."""
        return RankCounts(*self._values.tolist())

    def close(self) -> None:
        """Give the memory up; may be called twice."""
        if not self._memory.closed:
            self._values.release()
            self._memory.close()
            os.close(self.descriptor)
