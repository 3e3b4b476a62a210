"""All stages in this process: a thread for each rank, memory instead of sockets. For tests; a step ends in ``submit``.

submit(plan) ─▶ stage 0: ranks together ─▶ stage 1: ranks together ─▶ … ─▶ result ─▶ poll()
                    ▲                                                        │
                    └────────────────────── feedback ────────────────────────┘
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import zmq

from stageline_engine.core.deployment import RankLoaded, RankSettings
from stageline_engine.core.errors import StageFailedError
from stageline_engine.core.messages import STAGE_LOADING, AdmitSequence, StepPlan, StepReport, StepResult
from stageline_engine.executor.base import ExecutorEvent, Started
from stageline_engine.executor.roster import Roster, Tell, tell_nobody
from stageline_engine.executor.thread_ranks import RankThreads
from stageline_engine.sources.fetch import fetch
from stageline_engine.stage.runner import StageRunner


class InlineExecutor:
    """See :class:`stageline_engine.executor.base.Executor`."""

    def __init__(self) -> None:
        self._stages: list[RankThreads[StageRunner]] = []
        self._events: list[ExecutorEvent] = []
        self._failed = False
        self._ended_at: dict[int, float] = {}
        """When each stage ended its newest step, as the executor's monotonic clock reads."""
        self._roster: Roster | None = None

    def start(
        self,
        settings: Sequence[RankSettings],
        choose_blocks: Callable[[list[RankLoaded]], int],
        progress: Callable[[str], None],
        epoch: int,
        tell: Tell = tell_nobody,
    ) -> Started:
        """See :meth:`Executor.start`."""
        self._roster = roster = Roster(settings, tell)
        try:
            started = self._start(settings, choose_blocks, progress, epoch, roster)
        except BaseException:
            self.close()
            raise
        roster.begin_epoch(epoch)
        return started

    def _start(
        self,
        settings: Sequence[RankSettings],
        choose_blocks: Callable[[list[RankLoaded]], int],
        progress: Callable[[str], None],
        epoch: int,
        roster: Roster,
    ) -> Started:
        loaded: list[RankLoaded] = []
        for of_stage in settings:
            spec = of_stage.spec
            progress(f"loading stage {spec.stage}: layers {spec.start} to {spec.end - 1}")
            ranks: RankThreads[StageRunner] = RankThreads(spec.stage, spec.tp)
            self._stages.append(ranks)
            roster.set(spec.stage, STAGE_LOADING)
            fetch(Path(of_stage.model_folder), [spec], progress)
            ranks.make(lambda rank, group, of_stage=of_stage: StageRunner(of_stage, rank, group, epoch))  # type: ignore[misc]
            loaded += ranks.call(lambda runner: runner.loaded)
        num_blocks = choose_blocks(loaded)
        for ranks in self._stages:
            ranks.call(lambda runner: runner.allocate(num_blocks))
            progress(f"warming up stage {ranks.stage}")
            ranks.call(lambda runner: runner.warm_up())
            self._ended_at[ranks.stage] = time.monotonic()
        return Started(loaded=loaded, num_blocks=num_blocks, rank_pids=[])

    def admit(self, admission: AdmitSequence) -> None:
        """Give it to the ranks of stage 0 and of the last stage."""
        for ranks in {id(ranks): ranks for ranks in (self._stages[0], self._stages[-1])}.values():
            ranks.call(lambda runner: runner.admit(admission))

    def submit(self, plan: StepPlan) -> None:
        """Run the step to its end; :meth:`poll` then has its result and reports, or the failure of a stage."""
        if self._failed:
            return
        try:
            self._run(plan)
        except StageFailedError as error:
            self._failed = True
            self._events.append(error)
            if self._roster is not None:
                self._roster.lose(error.stage)

    def _run(self, plan: StepPlan) -> None:
        hidden: list[torch.Tensor | None] = [None]
        results: list[StepResult | None] = []
        receivers = [ranks.size for ranks in self._stages[1:]] + [0]
        planned = time.monotonic()
        for ranks, num_receivers in zip(self._stages, receivers, strict=True):
            began = time.monotonic()
            received = hidden
            ranks.call(lambda runner: runner.apply(plan))
            outputs = ranks.call(
                lambda runner, received=received: runner.run(plan, received[runner.rank % len(received)])  # type: ignore[misc]
            )
            hidden = [hidden_TH for hidden_TH, _ in outputs]
            results = [result for _, result in outputs]
            ended = time.monotonic()
            waits = planned - self._ended_at[ranks.stage], began - planned
            self._ended_at[ranks.stage] = ended
            num_bytes = 0 if hidden[0] is None else hidden[0].nbytes * num_receivers
            self._events.append(
                StepReport(plan.epoch, plan.step, ranks.stage, ended - began, waits[0], 0.0, waits[1], 0.0, num_bytes)
            )
        result = results[0]
        assert result is not None, "the last stage's rank 0 samples"
        self._stages[0].call(lambda runner: runner.take_feedback(result))
        self._events.append(result)

    def poll(self) -> list[ExecutorEvent]:
        """Everything that came back since the last call."""
        events, self._events = self._events, []
        return events

    def sockets(self) -> Sequence[zmq.Socket[bytes] | int]:
        """None: a step ends in :meth:`submit`."""
        return []

    def resident_bytes(self) -> list[int]:
        """Nothing: the ranks share this process's memory."""
        return []

    def drain(self) -> None:
        """Nothing: nobody else ends these ranks."""

    def close(self, failure: str = "") -> None:
        """End the threads. May be called twice."""
        for ranks in self._stages:
            ranks.close()
        self._stages = []
