"""Ranks as processes of this machine; implements :class:`executor.base.Executor` without torch in this process."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import zmq

from stageline_engine.comm.commands import Hello, RankId
from stageline_engine.core.deployment import RankLoaded, RankSettings
from stageline_engine.core.errors import StageFailedError
from stageline_engine.core.messages import AdmitSequence, StepPlan, StepReport, StepResult
from stageline_engine.executor.base import ExecutorEvent, Started
from stageline_engine.executor.rank_host import RankHost
from stageline_engine.executor.rank_setup import RankSetup, all_members


class LocalExecutor:
    """See :class:`executor.base.Executor`. Use it from one thread, whose end is the end of the ranks."""

    def __init__(self) -> None:
        self._host: RankHost | None = None
        self._all: list[RankId] = []
        self._ends: list[RankId] = []
        """Ranks of the first and of the last stage."""

    def start(
        self,
        settings: Sequence[RankSettings],
        choose_blocks: Callable[[list[RankLoaded]], int],
        progress: Callable[[str], None],
        epoch: int,
    ) -> Started:
        """See :class:`executor.base.Executor`."""
        self._all = all_members(settings)
        self._ends = [rank_id for rank_id in self._all if rank_id[0] in (0, len(settings) - 1)]
        try:
            host = self._start_host(settings, progress)
            loaded, num_blocks = RankSetup(host, settings, epoch, progress).run(choose_blocks)
        except BaseException:
            self.close()
            raise
        return Started(loaded=loaded, num_blocks=num_blocks, rank_pids=host.pids())

    def admit(self, admission: AdmitSequence) -> None:
        """See :class:`executor.base.Executor`."""
        self._running().send_to(self._ends, admission)

    def submit(self, plan: StepPlan) -> None:
        """See :class:`executor.base.Executor`."""
        self._running().send_to(self._all, plan)

    def poll(self) -> list[ExecutorEvent]:
        """See :class:`executor.base.Executor`."""
        host = self._running()
        events: list[ExecutorEvent] = []
        for _, reply in host.collect():
            if isinstance(reply, StepResult | StepReport):
                events.append(reply)
        failure = host.take_failure()
        if isinstance(failure, StageFailedError):
            events.append(failure)
        elif failure is not None:
            raise failure
        return events

    def sockets(self) -> list[zmq.Socket[bytes] | int]:
        """See :class:`executor.base.Executor`."""
        return self._running().sockets()

    def resident_bytes(self) -> list[int]:
        """See :class:`executor.base.Executor`."""
        return self._running().resident_bytes()

    def close(self) -> None:
        """See :class:`executor.base.Executor`."""
        if self._host is not None:
            self._host.close()
            self._host = None

    def _start_host(self, settings: Sequence[RankSettings], progress: Callable[[str], None]) -> RankHost:
        began = time.monotonic()
        progress(f"starting {len(self._all)} rank{'s' if len(self._all) > 1 else ''}")
        self._host = RankHost(settings)
        self._host.fetch(settings, progress)
        self._host.wait_all(Hello, lambda rank_id, hello: None)
        progress(f"processes are there after {time.monotonic() - began:.1f} s")
        return self._host

    def _running(self) -> RankHost:
        assert self._host is not None, "start() comes first, and nothing after close()"
        return self._host
