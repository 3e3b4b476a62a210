"""Pipelines in exact arithmetic: how full the stages are, how slots balance, when prefill waits for whom."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from stageline_engine.core.messages import SampledToken, StepPlan, StepResult
from stageline_engine.scheduler.scheduler import ScheduledStep
from support.pipeline_sim import PipelineSimulator, linear_time
from support.scheduling import make_request, make_scheduler

# A stage of 20 ms for its weights, 1 ms a row; hops and head of 0.3 ms.
STAGE = linear_time(base=20_000, decode_row=1_000, prefill_token=1_000, per_1000_context=100)
HOP = HEAD = 300
NOTHING_STOPS = 7


def answer(scheduled: ScheduledStep) -> StepResult:
    plan = scheduled.plan
    tokens = [SampledToken(segment.seq, NOTHING_STOPS) for segment in plan.segments if segment.samples]
    return StepResult(plan.epoch, plan.step, plan.slot, tokens)


def simulate(
    slots: int, stages: int, requests: Sequence[tuple[int, int, int]], num_blocks: int = 6000
) -> PipelineSimulator:
    """Run (arrival in µs, prompt tokens, output tokens) to the end."""
    scheduler = make_scheduler(slots=slots, stages=stages, num_blocks=num_blocks)
    simulator = PipelineSimulator(scheduler, answer, [STAGE] * stages, hop=HOP, head=HEAD)
    for number, (at, prompt, output) in enumerate(requests):
        simulator.arrive(at, make_request(f"r{number}", prompt, output))
    simulator.run()
    return simulator


def mixed_trace(count: int, seed: int, per_second: float | None = None) -> list[tuple[int, int, int]]:
    """Log-normal prompts and outputs; all at once, or Poisson arrivals."""
    rng = random.Random(seed)
    at = 0
    requests = []
    for _ in range(count):
        prompt = max(4, min(1500, int(rng.lognormvariate(4.5, 1.0))))
        output = max(2, min(400, int(rng.lognormvariate(4.0, 0.8))))
        if per_second:
            at += int(rng.expovariate(per_second) * 1e6)
        requests.append((at, prompt, output))
    return requests


def decode_rows(plan: StepPlan) -> int:
    return sum(1 for segment in plan.segments if segment.length == 1 and segment.samples)


def prefill_rows(plan: StepPlan) -> int:
    return plan.num_rows - decode_rows(plan)


def busy_end(simulator: PipelineSimulator, share: float) -> int:
    """When this share of the requests had finished: what comes after has too few rows to fill a pipeline."""
    ends = sorted(simulator.finished_at.values())
    return ends[int(share * len(ends)) - 1]


@pytest.mark.parametrize(("slots", "stages"), [(1, 1), (2, 2), (3, 2), (3, 3), (4, 3), (4, 4), (5, 4)])
def test_steady_decode_with_equal_rows_fills_the_pipeline(slots: int, stages: int) -> None:
    simulator = simulate(slots, stages, [(0, 64, 128)] * 32)
    decoding = [step for step in simulator.steps if not prefill_rows(step.plan)]
    start, end = decoding[2 * slots].started_at[0], decoding[-3 * slots].started_at[0]
    assert simulator.bubble(start, end) <= 0.05


@pytest.mark.parametrize(("slots", "stages"), [(2, 2), (3, 2), (3, 3), (4, 3), (4, 4), (5, 4)])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_burst_of_mixed_lengths_leaves_few_bubbles(slots: int, stages: int, seed: int) -> None:
    simulator = simulate(slots, stages, mixed_trace(200, seed))
    assert simulator.bubble(0, busy_end(simulator, 0.7)) <= 0.08


@pytest.mark.parametrize(("slots", "stages"), [(2, 2), (3, 2), (4, 3), (5, 4)])
def test_mixed_arrivals_leave_few_bubbles(slots: int, stages: int) -> None:
    simulator = simulate(slots, stages, mixed_trace(160, 0, per_second=3.0))
    start = simulator.steps[4 * slots].started_at[0]
    assert simulator.bubble(start, busy_end(simulator, 0.7)) <= 0.08


@pytest.mark.parametrize("slots", [2, 3])
def test_a_burst_settles_into_equal_slots_within_two_rounds(slots: int) -> None:
    simulator = simulate(slots, 2, [(0, 64, 128)] * 32)
    plans = [step.plan for step in simulator.steps]
    last_prefill = max(index for index, plan in enumerate(plans) if prefill_rows(plan))
    settled = plans[last_prefill + 1 + 2 * slots : 100 * slots]
    assert {decode_rows(plan) for plan in settled} <= {32 // slots, -(-32 // slots)}
    assert [plan.slot for plan in settled] == [(settled[0].slot + index) % slots for index in range(len(settled))]


def test_slots_are_balanced_again_after_sequences_finish() -> None:
    """Two slots of 16; the first 12 sequences of one slot end early."""
    scheduler = make_scheduler(slots=2, stages=2)
    simulator = PipelineSimulator(scheduler, answer, [STAGE] * 2, hop=HOP, head=HEAD)
    for number in range(32):
        simulator.arrive(0, make_request(f"r{number}", 64, 20 if number % 2 and number < 24 else 100))
    simulator.run()
    plans = [step.plan for step in simulator.steps]
    last_end = max(simulator.finished_at[f"r{number}", 0] for number in range(1, 24, 2))
    after = [step.plan for step in simulator.steps if step.planned_at > last_end]
    assert {decode_rows(plan) for plan in after[4:40]} == {10}
    assert len(plans) < 2 * 110


def test_a_pure_prefill_burst_uses_whole_budgets_and_does_not_wait() -> None:
    """The chunks of one prompt go through consecutive micro-batches, each stage busy without a gap."""
    simulator = simulate(2, 2, [(0, 1600, 1)])
    rows = [step.plan.num_rows for step in simulator.steps]
    assert rows[:6] == [256] * 6
    assert sum(rows) == 1600
    starts, ends = (
        [times[0] for times in column]
        for column in zip(*[(s.started_at, s.ended_at) for s in simulator.steps], strict=True)
    )
    assert all(start == end for start, end in zip(starts[1:6], ends, strict=False))


def test_a_short_prompt_is_cut_so_that_both_stages_work() -> None:
    simulator = simulate(2, 2, [(0, 300, 1)])
    assert [step.plan.num_rows for step in simulator.steps] == [150, 150]


def test_prefill_beside_decodes_is_spread_over_the_slots() -> None:
    simulator = simulate(2, 2, [(0, 16, 200)] * 16 + [(3_000_000, 600, 2)])
    parts = [prefill_rows(step.plan) for step in simulator.steps if step.planned_at >= 3_000_000]
    parts = [part for part in parts if part > 1]
    whole = parts[:-1]
    assert sum(parts) == 600
    assert len(parts) >= 6
    assert max(whole) <= 1.2 * min(whole)


def test_prefill_shrinks_as_kv_fills() -> None:
    requests = [(0, 16, 300)] * 16 + [(5_000_000, 600, 2)]
    roomy = simulate(2, 2, requests, num_blocks=6000)
    tight = simulate(2, 2, requests, num_blocks=210)

    def first_parts(simulator: PipelineSimulator) -> list[int]:
        parts = [prefill_rows(step.plan) for step in simulator.steps if step.planned_at >= 5_000_000]
        return [part for part in parts if part][:4]

    assert max(first_parts(tight)) < min(first_parts(roomy))


def test_one_sequence_decodes_as_fast_as_the_loop_allows() -> None:
    simulator = simulate(2, 2, [(0, 8, 50)])
    round_time = 2 * (21_000 + HOP)
    decode = simulator.steps[5:45]
    assert decode[-1].started_at[0] - decode[0].started_at[0] <= 39 * (round_time + 100)


def test_a_sequence_alone_stays_in_its_slot() -> None:
    """A move would only swap the sides of the imbalance, and each move costs a turn."""
    simulator = simulate(2, 2, [(0, 64, 50)])
    assert len({step.plan.slot for step in simulator.steps if decode_rows(step.plan)}) == 1


def test_at_most_one_step_more_than_slots_is_in_flight() -> None:
    simulator = simulate(3, 2, mixed_trace(40, 3))
    for index, step in enumerate(simulator.steps[4:], start=4):
        assert step.planned_at >= simulator.steps[index - 4].ended_at[-1]


def test_two_simulations_are_equal() -> None:
    first, second = (simulate(3, 2, mixed_trace(40, 5, per_second=4.0)) for _ in range(2))
    assert [step.plan for step in first.steps] == [step.plan for step in second.steps]
    assert first.finished_at == second.finished_at
