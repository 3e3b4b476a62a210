"""Where stages' time goes: nothing is missing, nothing counts twice, and idle time is no bubble."""

from __future__ import annotations

import asyncio

import pytest

from stageline_engine.client.async_engine import AsyncEngine
from stageline_engine.client.launch import prepare
from stageline_engine.core.config import CacheConfig, EngineConfig, ModelConfig, ParallelConfig
from stageline_engine.core.messages import EngineStats, StageStats, StepReport
from stageline_engine.core.request import SamplingParams
from stageline_engine.engine.stage_times import LATELY_SECONDS, WORKED, Lately, StageTimes, balance
from stageline_engine.stage.rank_clock import StepClock
from support.inline_engine import InlineEngine, even_split
from support.tiny_models import LAYERS, tiny_model

TIMES = (*WORKED, "idle")


def report(stage: int, *, busy: float = 0.0, plan: float = 0.0, epoch: int = 1, rest: float = 0.0) -> StepReport:
    return StepReport(epoch, 1, stage, busy, plan, 0.0, 0.0, 0.0, 0, rest)


def accounted(stage: StageStats) -> float:
    return float(sum(getattr(stage, name) for name in TIMES))


class Clock:
    """Seconds that a test moves."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_what_no_cause_has_is_communication() -> None:
    now = Clock()
    clock = StepClock(now)
    now.now = 1.0
    with clock.span("busy"):
        now.now = 4.0
    with clock.span("wait_upstream"):
        now.now = 4.5
    now.now = 6.0
    times = clock.take()
    assert (times.busy, times.wait_upstream, times.communicating) == (3.0, 0.5, 2.5)
    now.now = 7.0
    assert clock.take().communicating == 1.0, "what came after the last look belongs to the next step"


def test_time_without_work_is_idle_and_not_a_wait_for_a_plan() -> None:
    times = StageTimes(2, now=100.0)
    times.saw_work(True, 110.0)
    # Stage 0 gets the plan at once, works for two seconds, and has another second for messages.
    times.saw_report(report(0, busy=2.0, plan=10.0, rest=1.0), 113.0)
    # Nothing to do from 113 to 120, and a plan that comes half a second late.
    times.saw_work(False, 113.0)
    assert times.sums(115.0)[0].idle == 12.0, "told as it passes"
    times.saw_work(True, 120.0)
    times.saw_report(report(0, busy=1.0, plan=7.5), 121.5)
    (stage, other) = times.sums(121.5)
    assert (stage.busy, stage.wait_schedule, stage.communicating, stage.idle) == (3.0, 0.5, 1.0, 17.0)
    assert accounted(stage) == 21.5
    assert other.idle == 17.0


def test_idle_time_that_one_wait_does_not_have_is_taken_off_the_next() -> None:
    """The core is idle once it has the result, which is before the last stage has told of its step."""
    times = StageTimes(1, now=0.0)
    times.saw_work(True, 0.0)
    times.saw_report(report(0, busy=1.0, rest=0.25), 1.25)
    times.saw_work(False, 1.0)
    times.saw_work(True, 2.0)
    times.saw_report(report(0, busy=1.0, plan=0.75), 3.0)
    times.saw_report(report(0, busy=1.0, plan=0.5), 4.5)
    (stage,) = times.sums(4.5)
    assert stage.wait_schedule == 0.25
    assert accounted(stage) == 4.5


def test_what_a_stage_waited_for_others_to_load_does_not_count() -> None:
    times = StageTimes(1, now=0.0)
    times.saw_work(True, 5.0)
    times.saw_report(report(0, busy=1.0, plan=60.0), 6.5)
    (stage,) = times.sums(6.5)
    assert stage.wait_schedule == 0.5, "of the time since all were ready"
    assert accounted(stage) == 6.5
    times.saw_report(report(0, busy=1.0, plan=30.0, epoch=2), 9.5)
    assert accounted(times.sums(9.5)[0]) == 9.5


def test_the_slowest_stage_and_the_bubble_are_told() -> None:
    before = [StageStats(), StageStats()]
    after = [StageStats(busy=6.0, wait_schedule=4.0, idle=90.0), StageStats(busy=10.0, idle=90.0)]
    found = balance(before, after)
    assert found.efficiency == 0.8
    assert found.loads == (0.75, 1.25)
    assert balance(before, before) == balance([StageStats(idle=1.0)] * 2, [StageStats(idle=7.0)] * 2)
    assert balance(before, before).loads == (1.0, 1.0)


def test_the_balance_of_late_forgets_what_was_long_ago_and_keeps_while_idle() -> None:
    lately = Lately()
    lately.balance([StageStats(), StageStats()])
    old = [StageStats(busy=100.0), StageStats(wait_upstream=100.0)]
    assert lately.balance(old).loads == (2.0, 0.0)
    for second in range(1, int(LATELY_SECONDS) + 2):
        new = [StageStats(busy=100.0 + second), StageStats(busy=second, wait_upstream=100.0)]
        found = lately.balance(new)
    assert found.loads == (1.0, 1.0)
    assert found.efficiency == 1.0
    idle = [StageStats(busy=stage.busy, wait_upstream=stage.wait_upstream, idle=1e6) for stage in new]
    assert lately.balance(idle) == found


def increase(before: EngineStats, after: EngineStats) -> list[float]:
    """Accounted seconds of each stage ÷ the engine's."""
    return [
        (accounted(new) - accounted(old)) / (after.seconds - before.seconds)
        for old, new in zip(before.stages, after.stages, strict=True)
    ]


async def test_the_shares_of_real_stages_add_up_to_all_of_the_time() -> None:
    config = EngineConfig(
        model=ModelConfig(model=str(tiny_model("llama")), max_model_len=256),
        parallel=ParallelConfig(stages=2, threads=1),
        cache=CacheConfig(kv_memory=16 * 2**20),
    )
    engine = await AsyncEngine.start(prepare(config, lambda line: None).setup, lambda line: None)

    async def run(name: str) -> None:
        params = SamplingParams(max_tokens=100, ignore_eos=True)
        async for _ in engine.generate(name, list(range(5, 60)), params):
            pass

    try:
        async with asyncio.timeout(120):
            first = engine.stats
            await asyncio.gather(*(run(str(number)) for number in range(6)))
            # With work and without: also while nobody reports.
            enough = max(engine.stats.seconds + 1, first.seconds + 5)
            while (last := engine.stats).seconds < enough:  # noqa: ASYNC110 (an engine has no event for it)
                await asyncio.sleep(0.05)
    finally:
        await engine.close()
    assert increase(first, last) == pytest.approx([1.0, 1.0], abs=0.01)
    for stage in last.stages:
        assert stage.busy > 0
        assert stage.idle > 0
        assert stage.communicating > 0
    assert last.stages[1].wait_upstream > 0
    assert last.rows >= 6 * 100
    assert 0 < last.efficiency <= 1
    assert max(stage.load for stage in last.stages) >= 1


def test_stages_without_processes_account_for_their_time_too() -> None:
    with InlineEngine(tiny_model("llama"), even_split(LAYERS, 2)) as engine:
        engine.generate([[5, 6, 7, 8], [9, 10]])
        stats = engine.stats.snapshot(engine.scheduler, [], False, engine.stats.last_token_at)
    for stage in stats.stages:
        assert stage.busy > 0
        assert accounted(stage) == pytest.approx(stats.seconds, rel=0.2)
