"""Ranks as processes, wherever they are; implements :class:`executor.base.Executor` without torch in this process."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import zmq

from stageline_engine.comm.commands import RankId
from stageline_engine.core.deployment import RankLoaded, RankSettings
from stageline_engine.core.errors import StageFailedError
from stageline_engine.core.messages import AdmitSequence, StepPlan, StepReport, StepResult
from stageline_engine.executor.base import ExecutorEvent, Started
from stageline_engine.executor.rank_host import RankHost
from stageline_engine.executor.rank_setup import RankSetup, all_members
from stageline_engine.executor.roster import Roster, Tell, tell_nobody


class ProcessExecutor(ABC):
    """See :class:`executor.base.Executor`. Use it from one thread."""

    def __init__(self) -> None:
        self._host: RankHost | None = None
        self._roster: Roster | None = None
        self._all: list[RankId] = []
        self._ends: list[RankId] = []
        """Ranks of the first and of the last stage."""

    @abstractmethod
    def make_host(self, settings: Sequence[RankSettings], progress: Callable[[str], None], roster: Roster) -> RankHost:
        """Begin to have the ranks' processes made, where this executor has them."""

    def start(
        self,
        settings: Sequence[RankSettings],
        choose_blocks: Callable[[list[RankLoaded]], int],
        progress: Callable[[str], None],
        epoch: int,
        tell: Tell = tell_nobody,
    ) -> Started:
        """See :class:`executor.base.Executor`."""
        self._all = all_members(settings)
        self._ends = [rank_id for rank_id in self._all if rank_id[0] in (0, len(settings) - 1)]
        self._roster = Roster(settings, tell)
        try:
            began = time.monotonic()
            progress(f"starting {len(self._all)} rank{'s' if len(self._all) > 1 else ''}")
            self._host = host = self.make_host(settings, progress, self._roster)
            host.fetch(settings, progress)
            placed = host.assemble()
            progress(f"processes are there after {time.monotonic() - began:.1f} s")
            loaded, num_blocks = RankSetup(host, placed, epoch, progress).run(choose_blocks)
        except BaseException as error:
            self._note(error)
            self.close(str(error) or type(error).__name__)
            raise
        host.joined()
        self._roster.begin_epoch(epoch)
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
        if failure is not None:
            self._note(failure)
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

    def drain(self) -> None:
        """See :class:`executor.base.Executor`."""
        self._running().drain()

    def close(self, failure: str = "") -> None:
        """See :class:`executor.base.Executor`."""
        if self._host is not None:
            self._host.close(failure)
            self._host = None

    def _note(self, error: BaseException) -> None:
        if isinstance(error, StageFailedError) and self._roster is not None:
            self._roster.lose(error.stage)

    def _running(self) -> RankHost:
        assert self._host is not None, "start() comes first, and nothing after close()"
        return self._host
