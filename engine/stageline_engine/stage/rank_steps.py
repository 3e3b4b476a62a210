"""Runs plans in their order: wait for what a plan needs, run the model, pass on what came out, report.

    plan known → (step results) → (activations) → model → activations or tokens → report

Each wait is charged to its cause, and all the rest of the time to communication. Receives are posted when a plan is
known, not when it is run.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch

from stageline_engine.comm.channel import RankChannel
from stageline_engine.comm.rank_counters import RankCounters
from stageline_engine.core.messages import AdmitSequence, StepPlan, StepReport, StepResult
from stageline_engine.core.step_log import StepLog
from stageline_engine.stage.rank_clock import StepClock, StepTimes
from stageline_engine.stage.rank_inbox import Inbox
from stageline_engine.stage.rank_joints import Joints
from stageline_engine.stage.runner import StageRunner

_log = logging.getLogger(__name__)


class StepLoop:
    """The steps of one epoch of one rank."""

    def __init__(
        self, runner: StageRunner, inbox: Inbox, joints: Joints, channel: RankChannel, counters: RankCounters
    ) -> None:
        self._runner = runner
        self._stage = runner.spec.stage
        self._is_reporter = runner.rank == 0
        self._inbox = inbox
        self._joints = joints
        self._channel = channel
        self._counters = counters
        self._clock = StepClock()
        self._log = StepLog(_log, "runs")
        inbox.on_plan = self._expect

    def run(self) -> None:
        """Run steps until the epoch ends.

        Raises:
            EpochEnded: a set-up command has arrived.
            LinkFailedError: a neighbour is gone.
            StepGapError: a plan is missing.
        """
        while True:
            self._inbox.look()
            self._inbox.check_epoch()
            self._wait("wait_schedule", lambda: bool(self._inbox.work))
            work = self._inbox.work.popleft()
            if isinstance(work, AdmitSequence):
                self._runner.admit(work)
            else:
                self._step(work)

    def _expect(self, plan: StepPlan) -> None:
        if self._joints.upstream is not None:
            self._joints.upstream.expect(plan.num_rows)

    def _step(self, plan: StepPlan) -> None:
        self._wait("wait_feedback", lambda: self._has_feedback(plan))
        self._runner.apply(plan)
        hidden_TH = self._receive()
        self._log.note(plan)
        with self._clock.span("busy"):
            sent_TH, result = self._runner.run(plan, hidden_TH)
        self._joints.check()
        if sent_TH is not None:
            self._send(sent_TH)
        if result is not None:
            self._publish(result)
        times = self._clock.take()
        self._count(plan, times, sent_TH)
        if self._is_reporter:
            self._report(plan, times, sent_TH)

    def _wait(self, cause: str, condition: Callable[[], bool]) -> None:
        if not condition():
            with self._clock.span(cause):
                self._inbox.wait_until(condition)

    def _take_results(self) -> None:
        while self._inbox.results:
            self._runner.take_feedback(self._inbox.results.popleft())

    def _has_feedback(self, plan: StepPlan) -> bool:
        self._take_results()
        return not self._runner.needs_feedback(plan)

    def _receive(self) -> torch.Tensor | None:
        upstream = self._joints.upstream
        if upstream is None:
            return None
        arrived: list[torch.Tensor] = []

        def has_arrived() -> bool:
            hidden_TH = upstream.take()
            if hidden_TH is not None:
                arrived.append(hidden_TH)
            return hidden_TH is not None

        self._wait("wait_upstream", has_arrived)
        return arrived[0]

    def _send(self, hidden_TH: torch.Tensor) -> None:
        for link in self._joints.downstream:
            self._wait("wait_downstream", lambda link=link: not link.is_full)  # type: ignore[misc]
            link.send(hidden_TH)

    def _publish(self, result: StepResult) -> None:
        # Stage 0 first: it waits for the tokens, the head only passes them on.
        self._joints.results.send(result)
        self._channel.send(result)
        if self._stage == 0:
            self._runner.take_feedback(result)

    def _count(self, plan: StepPlan, times: StepTimes, sent_TH: torch.Tensor | None) -> None:
        self._counters.add(
            steps=1,
            rows=plan.num_rows,
            boundary_bytes=0 if sent_TH is None else sent_TH.nbytes * len(self._joints.downstream),
            busy=times.busy,
            wait_schedule=times.wait_schedule,
            wait_feedback=times.wait_feedback,
            wait_upstream=times.wait_upstream,
            wait_downstream=times.wait_downstream,
            communicating=times.communicating,
        )

    def _report(self, plan: StepPlan, times: StepTimes, sent_TH: torch.Tensor | None) -> None:
        num_bytes = 0 if sent_TH is None else sent_TH.nbytes * self._joints.num_receivers
        self._channel.send(
            StepReport(
                plan.epoch,
                plan.step,
                self._stage,
                times.busy,
                times.wait_schedule,
                times.wait_feedback,
                times.wait_upstream,
                times.wait_downstream,
                num_bytes,
                times.communicating,
            )
        )
