"""A pipeline in exact arithmetic: stages that take as long as a cost model says, a scheduler, and no real time.

    head ── plan ──▶ stage 0 ── hop ──▶ stage 1 … stage N-1 ── hop ──▶ stage 0 (feedback), head (result)

Integers of microseconds. A stage runs steps in order; stage 0 also waits for the tokens that a plan reads. Activations
may queue before a stage without limit.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field

from stageline_engine.core.messages import AddRequest, StepPlan, StepReport, StepResult
from stageline_engine.scheduler.scheduler import ScheduledStep, Scheduler

StageTime = Callable[[StepPlan], int]
"""Microseconds of a step on one stage."""


def linear_time(base: int, decode_row: int, prefill_token: int, per_1000_context: int = 0) -> StageTime:
    """The cost model's own form: every position looked back on costs, for each row."""

    def microseconds(plan: StepPlan) -> int:
        total = base
        for segment in plan.segments:
            cost = decode_row if segment.length == 1 and segment.samples else prefill_token
            total += cost * segment.length + per_1000_context * segment.start * segment.length // 1000
        return total

    return microseconds


@dataclass
class SimulatedStep:
    """What happened to one step."""

    plan: StepPlan
    planned_at: int
    started_at: list[int] = field(default_factory=list)
    """By stage."""
    ended_at: list[int] = field(default_factory=list)


class PipelineSimulator:
    """Runs a scheduler against simulated stages.

    Args:
        execute: gives a plan's result (e.g. a mirror's); its tokens count only from the time the step ends.
        stage_times: one cost model for each stage.
        hop: microseconds from stage to stage, and from the last one to stage 0 and to the head.
        head: microseconds from a result's arrival until plans made because of it are at the stages.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        execute: Callable[[ScheduledStep], StepResult],
        stage_times: list[StageTime],
        hop: int = 0,
        head: int = 0,
    ) -> None:
        self.scheduler = scheduler
        self.steps: list[SimulatedStep] = []
        self.finished_at: dict[tuple[str, int], int] = {}
        self.first_token_at: dict[tuple[str, int], int] = {}
        self.num_tokens = 0
        self._execute = execute
        self._stage_times = stage_times
        self._hop = hop
        self._head = head
        self._free_at = [0] * len(stage_times)
        self._arrivals: list[tuple[int, int, AddRequest]] = []
        self._results: list[tuple[int, int, StepResult]] = []

    def arrive(self, at: int, request: AddRequest) -> None:
        """Let a request come at a time in microseconds."""
        heapq.heappush(self._arrivals, (at, len(self._arrivals), request))

    def run(self, until: int | None = None) -> None:
        """Go on until nothing is left to do, or until a time."""
        while self._arrivals or self._results:
            now = min(queue[0][0] for queue in (self._arrivals, self._results) if queue)
            if until is not None and now > until:
                return
            while self._arrivals and self._arrivals[0][0] <= now:
                self.scheduler.add(heapq.heappop(self._arrivals)[2], ())
            while self._results and self._results[0][0] <= now:
                self._take(heapq.heappop(self._results)[2], now)
            while self.scheduler.can_plan():
                scheduled = self.scheduler.plan(now / 1e6)
                if scheduled is None:
                    break
                self._submit(scheduled, now)
        assert not self.scheduler.has_work, "the scheduler is stuck"

    def bubble(self, start: int, end: int) -> float:
        """Idle share of the busiest stage between two times."""
        busy = [
            sum(max(0, min(step.ended_at[stage], end) - max(step.started_at[stage], start)) for step in self.steps)
            for stage in range(len(self._stage_times))
        ]
        return 1 - max(busy) / (end - start)

    def _take(self, result: StepResult, now: int) -> None:
        for output in self.scheduler.complete(result, now / 1e6):
            key = output.request_id, output.choice
            self.num_tokens += len(output.token_ids)
            if output.token_ids:
                self.first_token_at.setdefault(key, now)
            if output.finish_reason is not None:
                self.finished_at[key] = now

    def _submit(self, scheduled: ScheduledStep, now: int) -> None:
        plan = scheduled.plan
        step = SimulatedStep(plan, now)
        ready = now + self._head
        if plan.feedback_step:
            ready = max(ready, self.steps[plan.feedback_step - 1].ended_at[-1] + self._hop)
        for stage, stage_time in enumerate(self._stage_times):
            start = max(ready, self._free_at[stage])
            end = start + stage_time(plan)
            self._free_at[stage] = end
            step.started_at.append(start)
            step.ended_at.append(end)
            self.scheduler.observe(StepReport(plan.epoch, plan.step, stage, (end - start) / 1e6, 0.0, 0.0, 0.0, 0.0, 0))
            ready = end + self._hop
        self.steps.append(step)
        heapq.heappush(self._results, (ready, plan.step, self._execute(scheduled)))
