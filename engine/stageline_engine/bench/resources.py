"""What the processes of an engine use while a workload runs: resident memory, and where stages spend their time."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

import msgspec
import psutil

from stageline_engine.client.base import EngineClient
from stageline_engine.core.messages import EngineStats, StageStats

MEMORY_SECONDS = 0.2
"""Between two looks at resident memory."""
POLL_SECONDS = 0.01
"""Between two looks for newer stats."""
SETTLE_SECONDS = 5.0
"""The core sends stats twice a second; reports that are missing after this time are not coming."""

CAUSES = ("busy", "wait_schedule", "wait_feedback", "wait_upstream", "wait_downstream")


class StageTime(msgspec.Struct, frozen=True, kw_only=True):
    """Where one stage's time went during a workload, as shares (0 … 1) of the makespan."""

    stage: int
    steps: int
    busy: float
    """Running the model."""
    wait_schedule: float
    """No plan was there although there was work."""
    wait_feedback: float
    """A token that the plan reads was not there."""
    wait_upstream: float
    """The previous stage's activations were not there."""
    wait_downstream: float
    """The next stage had not taken the previous activations."""
    other: float
    """The rest: messages, time without work, and the time after the stage's last step."""
    boundary_bytes: int
    """Sent to the next stage."""


def stage_times(before: Sequence[StageStats], after: Sequence[StageStats], makespan: float) -> list[StageTime]:
    """Shares of ``makespan`` between two settled states."""
    times = []
    for stage, (old, new) in enumerate(zip(before, after, strict=True)):
        seconds = {cause: getattr(new, cause) - getattr(old, cause) for cause in CAUSES}
        shares = {cause: spent / makespan for cause, spent in seconds.items()}
        times.append(
            StageTime(
                stage=stage,
                steps=new.steps - old.steps,
                other=max(0.0, 1 - sum(shares.values())),
                boundary_bytes=new.boundary_bytes - old.boundary_bytes,
                **shares,
            )
        )
    return times


async def settled(engine: EngineClient, after_step: int) -> EngineStats:
    """The first state with more than ``after_step`` steps planned in which nothing runs and every stage has reported
    every step; the newest state when none comes in time."""
    deadline = time.perf_counter() + SETTLE_SECONDS
    while not _is_settled(engine.stats, after_step):
        if not engine.is_alive or time.perf_counter() >= deadline:
            break
        await asyncio.sleep(POLL_SECONDS)
    return engine.stats


def _is_settled(stats: EngineStats, after_step: int) -> bool:
    is_idle = stats.num_running == 0 and stats.num_waiting == 0
    return is_idle and stats.steps > after_step and all(stage.steps == stats.steps for stage in stats.stages)


class MemoryWatch:
    """Peaks of resident memory (RSS) by process, in bytes. Pages that processes share count for each of them."""

    def __init__(self, pids: Mapping[str, int]) -> None:
        self._processes = {name: psutil.Process(pid) for name, pid in pids.items()}
        self.peaks = dict.fromkeys(pids, 0)

    def look(self) -> None:
        """Take a reading now."""
        for name, process in self._processes.items():
            # A process that died is the engine's to tell.
            with contextlib.suppress(psutil.NoSuchProcess):
                self.peaks[name] = max(self.peaks[name], process.memory_info().rss)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Take readings, several each second, while the body runs, and one at its end."""
        task = asyncio.create_task(self._keep_looking(), name="bench-memory")
        try:
            yield
        finally:
            task.cancel()
            self.look()

    async def _keep_looking(self) -> None:
        while True:
            self.look()
            await asyncio.sleep(MEMORY_SECONDS)


def engine_pids(core_pid: int, rank_pids: Sequence[Sequence[int]]) -> dict[str, int]:
    """Process ids of an engine by what the processes do; this one is ``bench``."""
    pids = {"bench": os.getpid(), "core": core_pid}
    ranks = {
        f"stage {stage} rank {rank}": pid for stage, pids_of in enumerate(rank_pids) for rank, pid in enumerate(pids_of)
    }
    for pid in ranks.values():
        # Ranks are forked from a parent that holds the imported libraries.
        parent = psutil.Process(pid).ppid()
        if parent != core_pid:
            pids["fork parent"] = parent
    return pids | ranks
