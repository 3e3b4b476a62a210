"""The ranks of one stage as threads of this process, joined by an in-memory tensor group."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

import torch

from stageline_engine.core.errors import InvalidInputError, StageFailedError
from stageline_engine.models.tensor_group import TensorGroup

Rank = TypeVar("Rank")
Answer = TypeVar("Answer")


class _Table:
    """What the members of a group lay down for each other."""

    def __init__(self, size: int) -> None:
        self.tensors: list[torch.Tensor] = [torch.empty(0)] * size
        self.barrier = threading.Barrier(size)


class ThreadGroup:
    """See :class:`TensorGroup`. Every rank gets the same bits. A rank that raises breaks the barrier for the others."""

    def __init__(self, rank: int, size: int, table: _Table) -> None:
        self.rank = rank
        self.size = size
        self._table = table

    def all_reduce(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sum in rank order, as a new tensor."""
        return self._join(tensor, lambda tensors: torch.stack(tensors).sum(0))

    def all_gather_last(self, tensor: torch.Tensor) -> torch.Tensor:
        """Concatenate in rank order."""
        return self._join(tensor, lambda tensors: torch.cat(tensors, dim=-1))

    def _join(self, tensor: torch.Tensor, operation: Callable[[list[torch.Tensor]], torch.Tensor]) -> torch.Tensor:
        table = self._table
        table.tensors[self.rank] = tensor
        table.barrier.wait()
        joined = operation(table.tensors)
        table.barrier.wait()
        return joined


class RankThreads(Generic[Rank]):
    """One object for each rank, each living on its own thread; calls go to all of them and wait for all."""

    def __init__(self, stage: int, size: int) -> None:
        self.stage = stage
        self.size = size
        self._table = _Table(size)
        self._ranks: list[Rank] = []
        # One thread each, since CPU threads are set per thread and the ranks must run at the same time.
        self._threads = [ThreadPoolExecutor(1, f"stage-{stage}-rank-{rank}") for rank in range(size)]

    def make(self, factory: Callable[[int, TensorGroup], Rank]) -> None:
        """Make each rank's object on its thread."""
        groups = [ThreadGroup(rank, self.size, self._table) for rank in range(self.size)]
        self._ranks = self._wait(
            [
                thread.submit(self._guard, factory, rank, group)
                for rank, (thread, group) in enumerate(zip(self._threads, groups, strict=True))
            ]
        )

    def call(self, function: Callable[[Rank], Answer]) -> list[Answer]:
        """Call ``function`` with each rank's object on its thread; answers in rank order.

        Raises:
            StageFailedError: a rank raised. The other ranks have ended the call too.
            InvalidInputError: a rank found its settings or files wrong.
        """
        return self._wait(
            [
                thread.submit(self._guard, function, rank)
                for thread, rank in zip(self._threads, self._ranks, strict=True)
            ]
        )

    def close(self) -> None:
        """End the threads."""
        for thread in self._threads:
            thread.shutdown()
        self._ranks = []

    def _guard(self, function: Callable[..., Answer], *arguments: object) -> Answer:
        try:
            return function(*arguments)
        except BaseException:
            self._table.barrier.abort()
            raise

    def _wait(self, futures: list[Future[Answer]]) -> list[Answer]:
        errors = {rank: error for rank, future in enumerate(futures) if (error := future.exception()) is not None}
        if not errors:
            return [future.result() for future in futures]
        causes = {rank: e for rank, e in errors.items() if not isinstance(e, threading.BrokenBarrierError)} or errors
        rank, error = next(iter(causes.items()))
        if isinstance(error, InvalidInputError):
            raise error
        tail = "".join(traceback.format_exception(error))
        raise StageFailedError(self.stage, rank, f"{type(error).__name__}: {error}", log_tail=tail) from error
