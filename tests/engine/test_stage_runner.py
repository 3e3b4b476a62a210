"""One rank at a time, driven by hand-made plans: the books that it keeps, and the tokens that come out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stageline_engine.core.errors import StaleEpochError, StepGapError
from stageline_engine.core.messages import AdmitSequence, SampledToken, Segment, StepPlan, StepResult
from stageline_engine.core.request import SamplingParams
from stageline_engine.stage.sequences import SequenceStore
from support.hand_pipeline import (
    BLOCK_SIZE,
    EPOCH,
    HandPipeline,
    make_admission,
    make_runner,
)
from support.tiny_models import LAYERS, parity_prompts, reference_greedy, tiny_model

GREEDY = SamplingParams(temperature=0.0, seed=0)


def test_stages_joined_by_hand_give_the_reference_tokens(prompts: list[list[int]], expected: list[list[int]]) -> None:
    pipeline = HandPipeline(make_runner(0, 3, 0, 2), make_runner(1, 3, 2, 3), make_runner(2, 3, 3, LAYERS))
    for stage in pipeline.stages:
        stage.warm_up()
    # More sequences than the runner was told of, chunks of a prompt beside decodes.
    for seq, prompt in enumerate(prompts):
        pipeline.admit(seq, prompt)
    pipeline.run(Segment(0, 0, 6, False), Segment(1, 0, 5, True))
    pipeline.run(Segment(1, 5, 1, True), Segment(0, 6, 5, True), Segment(2, 0, 7, True))
    for turn in range(6):
        pipeline.run(Segment(0, 11 + turn, 1, True), Segment(1, 6 + turn, 1, True), Segment(2, 7 + turn, 1, True))
    assert [pipeline.tokens(seq) for seq in range(3)] == [expected[0][:7], expected[1], expected[2][:7]]


def test_a_stage_reports_what_it_loaded(pipeline: HandPipeline) -> None:
    # 5 layers, 2 KV heads of 6, keys and values, float32.
    assert pipeline.stages[0].loaded.kv_block_bytes == 5 * 2 * 2 * 6 * BLOCK_SIZE * 4
    assert pipeline.stages[0].loaded.weight_bytes > 0
    assert pipeline.stages[0].loaded.free_bytes > 0
    assert (pipeline.stages[0].loaded.stage, pipeline.stages[0].loaded.rank) == (0, 0)


def test_warm_up_leaves_no_trace(pipeline: HandPipeline, prompts: list[list[int]], expected: list[list[int]]) -> None:
    pipeline.stages[0].warm_up()
    pipeline.admit(0, prompts[0])
    pipeline.run(Segment(0, 0, 11, True))
    pipeline.stages[0].warm_up()
    pipeline.decode(0, 11, 7)
    assert pipeline.tokens(0) == expected[0]


def test_prefix_blocks_of_another_sequence_can_be_shared(
    pipeline: HandPipeline, prompts: list[list[int]], expected: list[list[int]]
) -> None:
    runner, prompt = pipeline.stages[0], prompts[0]
    pipeline.admit(0, prompt)
    pipeline.run(Segment(0, 0, 11, True))
    runner.admit(make_admission(1, prompt))
    plan = StepPlan(EPOCH, 2, 0, [Segment(1, 8, 3, True)], [(1, [1, 2, 50])], [], 1)
    runner.apply(plan)
    _, result = runner.run(plan, None)
    assert result is not None
    assert [token.token for token in result.tokens] == expected[0][:1]


def test_a_long_prompt_outgrows_the_first_tables(pipeline: HandPipeline) -> None:
    prompt = parity_prompts(tiny_model("llama"), [90], 4)[0]
    pipeline.admit(0, prompt)
    for start in (0, 32, 64):
        pipeline.run(Segment(0, start, min(32, 90 - start), start == 64))
    pipeline.decode(0, 90, 3)
    assert [pipeline.tokens(0)] == reference_greedy(tiny_model("llama"), [prompt], 4)


def test_tokens_and_lines_have_no_upper_limit() -> None:
    store = SequenceStore(1)
    for seq in range(5):
        store.admit(make_admission(seq, [seq] * 250))
        store.append_blocks(seq, [seq + 1], 1)
    for step in range(1, 301):
        store.append_sampled([SampledToken(seq, 1000 * seq + step) for seq in range(5)], step)
    lines = store.lines([4, 0])
    tokens = store.segment_tokens(lines, np.array([249, 548]), np.array([3, 2]))
    assert tokens.tolist() == [4, 4001, 4002, 299, 300]
    assert store.tables(lines).tolist() == [[5], [1]]


def test_another_epoch_is_refused(pipeline: HandPipeline) -> None:
    runner = pipeline.stages[0]
    with pytest.raises(StaleEpochError):
        runner.apply(StepPlan(EPOCH - 1, 1, 0, [], [], [], 0))
    with pytest.raises(StaleEpochError):
        runner.admit(AdmitSequence(EPOCH - 1, 0, [1], 1, GREEDY, 0, ()))
    with pytest.raises(StaleEpochError):
        runner.take_feedback(StepResult(EPOCH - 1, 1, 0, []))


def test_a_gap_in_the_steps_is_refused(pipeline: HandPipeline, prompts: list[list[int]]) -> None:
    pipeline.admit(0, prompts[0])
    pipeline.run(Segment(0, 0, 11, True))
    for step in (1, 3):
        with pytest.raises(StepGapError, match="step 2 comes next"):
            pipeline.stages[0].apply(StepPlan(EPOCH, step, 0, [], [], [], 0))


def test_a_new_epoch_begins_with_nothing_but_the_weights(
    pipeline: HandPipeline, prompts: list[list[int]], expected: list[list[int]]
) -> None:
    runner = pipeline.stages[0]
    pipeline.admit(0, prompts[0])
    pipeline.run(Segment(0, 0, 11, True))
    weights = runner.model
    runner.begin_epoch(EPOCH + 1)
    runner.allocate(60)
    assert runner.model is weights
    runner.admit(AdmitSequence(EPOCH + 1, 0, prompts[1], 5, GREEDY, 0, ()))
    plan = StepPlan(EPOCH + 1, 1, 0, [Segment(0, 0, 5, True)], [(0, [7, 3])], [], 0)
    runner.apply(plan)
    _, result = runner.run(plan, None)
    assert result is not None
    assert [token.token for token in result.tokens] == expected[1][:1]


def test_hidden_states_cross_a_boundary_unchanged_in_shape(prompts: list[list[int]]) -> None:
    first = make_runner(0, 2, 0, 2)
    first.admit(make_admission(0, prompts[0]))
    plan = StepPlan(EPOCH, 1, 0, [Segment(0, 0, 11, True)], [(0, [1, 2, 3])], [], 0)
    first.apply(plan)
    hidden_TH, result = first.run(plan, None)
    assert result is None
    assert hidden_TH is not None
    assert hidden_TH.shape == (11, first.model.hidden_size)
    assert hidden_TH.dtype == torch.float32
