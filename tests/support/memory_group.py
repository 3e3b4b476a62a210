"""Tensor-parallel ranks as threads of one process, joined in memory."""

from __future__ import annotations

import threading

import torch

from stageline_engine.models.tensor_group import TensorGroup


class _Meeting:
    def __init__(self, size: int) -> None:
        self.barrier = threading.Barrier(size, timeout=60)
        self.given: list[torch.Tensor | None] = [None] * size


class MemoryGroup:
    """One rank's end. A rank that fails breaks the barrier of the others after a minute."""

    def __init__(self, rank: int, meeting: _Meeting) -> None:
        self.rank = rank
        self.size = len(meeting.given)
        self._meeting = meeting

    def _exchange(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        self._meeting.given[self.rank] = tensor
        self._meeting.barrier.wait()
        all_given = [given.clone() for given in self._meeting.given if given is not None]
        self._meeting.barrier.wait()
        return all_given

    def all_reduce(self, tensor: torch.Tensor) -> torch.Tensor:
        return torch.stack(self._exchange(tensor)).sum(0)

    def all_gather_last(self, tensor: torch.Tensor) -> torch.Tensor:
        return torch.cat(self._exchange(tensor), dim=-1)


def memory_groups(size: int) -> list[TensorGroup]:
    """The ends of all ranks, in rank order."""
    meeting = _Meeting(size)
    return [MemoryGroup(rank, meeting) for rank in range(size)]
