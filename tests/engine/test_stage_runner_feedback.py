"""One rank driven by hand-made plans: lives of a sequence after a preemption, and the tokens that come back late."""

from __future__ import annotations

from stageline_engine.core.messages import SampledToken, Segment, StepPlan, StepResult
from support.hand_pipeline import (
    EPOCH,
    HandPipeline,
    make_admission,
    make_runner,
)
from support.tiny_models import LAYERS


def test_a_preempted_sequence_goes_on_where_it_was(
    pipeline: HandPipeline, prompts: list[list[int]], expected: list[list[int]]
) -> None:
    pipeline.admit(0, prompts[0])
    pipeline.admit(1, prompts[1])
    pipeline.run(Segment(0, 0, 11, True))
    pipeline.decode(0, 11, 2)
    pipeline.run(Segment(1, 0, 5, True), finished=(0,))
    tokens = prompts[0] + expected[0][:3]
    pipeline.admit(0, tokens, prompt=11)
    pipeline.run(Segment(1, 5, 1, True), Segment(0, 0, 9, False))
    pipeline.run(Segment(0, 9, 5, True))
    pipeline.decode(0, 14, 4)
    assert pipeline.tokens(0) == expected[0]


def test_an_admission_may_come_while_plans_of_the_earlier_life_wait(
    pipeline: HandPipeline, prompts: list[list[int]], expected: list[list[int]]
) -> None:
    pipeline.admit(0, prompts[0])
    pipeline.admit(1, prompts[1])
    pipeline.run(Segment(0, 0, 11, True))
    # It lives again before the plan that ends its first life is applied.
    pipeline.stages[0].admit(make_admission(0, prompts[0] + expected[0][:2], 11))
    pipeline.run(Segment(0, 11, 1, True))
    pipeline.run(Segment(1, 0, 5, True), finished=(0,))
    pipeline.room[0] = 0
    pipeline.run(Segment(0, 0, 13, True))
    pipeline.decode(0, 13, 5)
    assert pipeline.tokens(0) == expected[0]


def test_tokens_of_an_earlier_life_are_dropped(
    pipeline: HandPipeline, prompts: list[list[int]], expected: list[list[int]]
) -> None:
    runner = pipeline.stages[0]
    pipeline.admit(0, prompts[0])
    first = pipeline.plan(Segment(0, 0, 11, True), feedback=0)
    runner.apply(first)
    _, late = runner.run(first, None)
    assert late is not None
    pipeline.admit(0, prompts[0] + expected[0][:1], 11)
    second = pipeline.plan(Segment(0, 0, 5, False), finished=(0,), feedback=0)
    runner.apply(second)
    runner.run(second, None)
    runner.take_feedback(late)
    runner.take_feedback(StepResult(EPOCH, 2, 0, []))
    pipeline.run(Segment(0, 5, 7, True))
    pipeline.decode(0, 12, 6)
    assert pipeline.tokens(0) == expected[0][1:]


def test_tokens_of_forgotten_sequences_are_dropped(pipeline: HandPipeline, prompts: list[list[int]]) -> None:
    runner = pipeline.stages[0]
    pipeline.admit(0, prompts[0])
    pipeline.run(Segment(0, 0, 11, True))
    pipeline.admit(1, prompts[1])
    pipeline.run(Segment(1, 0, 5, True), finished=(0,))
    runner.take_feedback(StepResult(EPOCH, 3, 0, [SampledToken(0, 5)]))


def test_the_first_stage_says_whether_a_token_is_missing(pipeline: HandPipeline, prompts: list[list[int]]) -> None:
    runner = pipeline.stages[0]
    pipeline.admit(0, prompts[0])
    pipeline.run(Segment(0, 0, 11, True))
    pipeline.run(Segment(0, 11, 1, True))
    assert not runner.needs_feedback(pipeline.plan(Segment(0, 12, 1, True), feedback=2))
    late = pipeline.plan(Segment(0, 13, 1, True), feedback=3)
    assert runner.needs_feedback(late)
    runner.take_feedback(StepResult(EPOCH, 3, 0, []))
    assert not runner.needs_feedback(late)


def test_later_stages_need_no_feedback() -> None:
    last = make_runner(1, 2, 3, LAYERS)
    assert not last.needs_feedback(StepPlan(EPOCH, 2, 0, [], [], [], 1))
