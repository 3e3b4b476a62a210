"""Books of the engine loop: what each stage reported, and the state that is sent to the client."""

from __future__ import annotations

import msgspec

from stageline_engine.core.messages import EngineStats, StepPlan, StepReport
from stageline_engine.engine.stage_times import Lately, StageTimes
from stageline_engine.scheduler.scheduler import Scheduler

READY_SECONDS = 5.0
"""An engine is ready while a token went through all stages within this time; a step may be this old, or four times its
predicted time."""


class StatsBook:
    """Sums since the engine was ready, at ``now``."""

    def __init__(self, num_stages: int, now: float) -> None:
        self.num_stages = num_stages
        self._times = StageTimes(num_stages, now)
        self._lately = Lately()
        self._began_at = now
        self._rows = 0
        self.last_steps = [0] * num_stages
        """The newest step that each stage has reported."""
        self.last_token_at = now
        """Clock reading of the newest result."""

    def saw_result(self, now: float) -> None:
        """A step went through all stages."""
        self.last_token_at = now

    def saw_work(self, has_work: bool, now: float) -> None:
        """Whether any sequence lives or any step is in flight."""
        self._times.saw_work(has_work, now)

    def saw_plan(self, plan: StepPlan) -> None:
        """A micro-batch was sent."""
        self._rows += plan.num_rows

    def saw_report(self, report: StepReport, now: float) -> None:
        """Add one stage's account of one step."""
        self.last_steps[report.stage] = report.step
        self._times.saw_report(report, now)

    def slowest_stage(self) -> int:
        """The first stage that is behind the others: the one to suspect of a hang."""
        return min(range(len(self.last_steps)), key=lambda stage: (self.last_steps[stage], stage))

    def snapshot(self, scheduler: Scheduler, resident_bytes: list[int], draining: bool, now: float) -> EngineStats:
        """The state to send; ``now`` is the same clock as everywhere in the loop."""
        queue = scheduler.stats()
        sums = self._times.sums(now)
        balance = self._lately.balance(sums)
        stages = [
            msgspec.structs.replace(stage, resident_bytes=resident, load=load)
            for stage, resident, load in zip(sums, resident_bytes or [0] * len(sums), balance.loads, strict=True)
        ]
        return EngineStats(
            epoch=queue.epoch,
            num_running=queue.num_running,
            num_waiting=queue.num_waiting,
            num_blocks=queue.num_blocks,
            num_free_blocks=queue.num_free_blocks,
            prefix_queries=queue.prefix_queries,
            prefix_hits=queue.prefix_hits,
            preemptions=queue.preemptions,
            steps=queue.steps,
            slots=queue.slots,
            slots_in_flight=queue.slots_in_flight,
            imbalance=queue.imbalance,
            seconds_since_token=now - self.last_token_at,
            oldest_step_seconds=0.0 if queue.oldest_planned_at is None else now - queue.oldest_planned_at,
            oldest_step_limit=max(READY_SECONDS, 4 * queue.oldest_predicted_seconds),
            stages=stages,
            seconds=now - self._began_at,
            rows=self._rows,
            efficiency=balance.efficiency,
            draining=draining,
        )
