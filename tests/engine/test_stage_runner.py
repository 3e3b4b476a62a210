"""One rank at a time, driven by hand-made plans: the books that it keeps, and the tokens that come out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from stageline_engine.core.deployment import RankSettings, StageSpec
from stageline_engine.core.errors import StaleEpochError, StepGapError
from stageline_engine.core.messages import AdmitSequence, SampledToken, Segment, StepPlan, StepResult
from stageline_engine.core.request import SamplingParams
from stageline_engine.models.tensor_group import SoloGroup
from stageline_engine.stage.runner import StageRunner
from stageline_engine.stage.sequences import SequenceStore
from support.tiny_models import LAYERS, parity_prompts, reference_greedy, reference_logprobs, tiny_model

BLOCK_SIZE = 4
EPOCH = 3
GREEDY = SamplingParams(temperature=0.0, seed=0)


def _runner(stage: int = 0, num_stages: int = 1, start: int = 0, end: int = LAYERS) -> StageRunner:
    settings = RankSettings(
        model_folder=str(tiny_model("llama")),
        spec=StageSpec(stage=stage, num_stages=num_stages, start=start, end=end, tp=1),
        dtype="float32",
        device="cpu",
        threads=1,
        block_size=BLOCK_SIZE,
        max_model_len=128,
        max_num_batched_tokens=32,
        max_num_seqs=2,
    )
    runner = StageRunner(settings, 0, SoloGroup(), EPOCH)
    runner.allocate(60)
    return runner


def _admission(seq: int, tokens: list[int], prompt: int | None = None, **params: Any) -> AdmitSequence:
    sampling = SamplingParams(**{"temperature": 0.0, "seed": 0, **params})
    return AdmitSequence(EPOCH, seq, tokens, len(tokens) if prompt is None else prompt, sampling, 0, ())


class _Pipeline:
    """Stages joined by hand: no process, no scheduler. Blocks are never used again."""

    def __init__(self, *stages: StageRunner) -> None:
        self.stages = stages
        self.step = 0
        self.next_block = 1
        self.room: dict[int, int] = {}
        self.results: list[StepResult] = []

    def admit(self, seq: int, tokens: list[int], prompt: int | None = None, **params: Any) -> None:
        self.room[seq] = 0
        for stage in (self.stages[0], self.stages[-1]):
            stage.admit(_admission(seq, tokens, prompt, **params))

    def plan(self, *segments: Segment, finished: tuple[int, ...] = (), feedback: int | None = None) -> StepPlan:
        new_blocks = []
        for segment in segments:
            missing = -(-(segment.start + segment.length) // BLOCK_SIZE) - self.room[segment.seq]
            if missing > 0:
                new_blocks.append((segment.seq, list(range(self.next_block, self.next_block + missing))))
                self.next_block += missing
                self.room[segment.seq] += missing
        self.step += 1
        feedback_step = self.step - 1 if feedback is None else feedback
        return StepPlan(EPOCH, self.step, 0, list(segments), new_blocks, list(finished), feedback_step)

    def run(self, *segments: Segment, finished: tuple[int, ...] = ()) -> StepResult:
        plan = self.plan(*segments, finished=finished)
        hidden_TH, result = None, None
        for stage in self.stages:
            assert not stage.needs_feedback(plan)
            stage.apply(plan)
            hidden_TH, result = stage.run(plan, hidden_TH)
        assert result is not None
        self.stages[0].take_feedback(result)
        self.results.append(result)
        return result

    def tokens(self, seq: int) -> list[int]:
        return [token.token for result in self.results for token in result.tokens if token.seq == seq]

    def decode(self, seq: int, start: int, count: int) -> None:
        for position in range(start, start + count):
            self.run(Segment(seq, position, 1, True))


@pytest.fixture(scope="module")
def single() -> StageRunner:
    return _runner()


@pytest.fixture
def pipeline(single: StageRunner) -> _Pipeline:
    single.begin_epoch(EPOCH)
    single.allocate(60)
    return _Pipeline(single)


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    return parity_prompts(tiny_model("llama"), [11, 5, 7], 8)


@pytest.fixture(scope="module")
def expected(prompts: list[list[int]]) -> list[list[int]]:
    return reference_greedy(tiny_model("llama"), prompts, 8)


def test_stages_joined_by_hand_give_the_reference_tokens(prompts: list[list[int]], expected: list[list[int]]) -> None:
    pipeline = _Pipeline(_runner(0, 3, 0, 2), _runner(1, 3, 2, 3), _runner(2, 3, 3, LAYERS))
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


def test_a_stage_reports_what_it_loaded(single: StageRunner) -> None:
    # 5 layers, 2 KV heads of 6, keys and values, float32.
    assert single.loaded.kv_block_bytes == 5 * 2 * 2 * 6 * BLOCK_SIZE * 4
    assert single.loaded.weight_bytes > 0
    assert single.loaded.free_bytes > 0
    assert (single.loaded.stage, single.loaded.rank) == (0, 0)


def test_warm_up_leaves_no_trace(pipeline: _Pipeline, prompts: list[list[int]], expected: list[list[int]]) -> None:
    pipeline.stages[0].warm_up()
    pipeline.admit(0, prompts[0])
    pipeline.run(Segment(0, 0, 11, True))
    pipeline.stages[0].warm_up()
    pipeline.decode(0, 11, 7)
    assert pipeline.tokens(0) == expected[0]


def test_prefix_blocks_of_another_sequence_can_be_shared(
    pipeline: _Pipeline, prompts: list[list[int]], expected: list[list[int]]
) -> None:
    runner, prompt = pipeline.stages[0], prompts[0]
    pipeline.admit(0, prompt)
    pipeline.run(Segment(0, 0, 11, True))
    runner.admit(_admission(1, prompt))
    plan = StepPlan(EPOCH, 2, 0, [Segment(1, 8, 3, True)], [(1, [1, 2, 50])], [], 1)
    runner.apply(plan)
    _, result = runner.run(plan, None)
    assert result is not None
    assert [token.token for token in result.tokens] == expected[0][:1]


def test_a_long_prompt_outgrows_the_first_tables(pipeline: _Pipeline) -> None:
    prompt = parity_prompts(tiny_model("llama"), [90], 4)[0]
    pipeline.admit(0, prompt)
    for start in (0, 32, 64):
        pipeline.run(Segment(0, start, min(32, 90 - start), start == 64))
    pipeline.decode(0, 90, 3)
    assert [pipeline.tokens(0)] == reference_greedy(tiny_model("llama"), [prompt], 4)


# --- preemption and feedback ----------------------------------------------------------------------------------------


def test_a_preempted_sequence_goes_on_where_it_was(
    pipeline: _Pipeline, prompts: list[list[int]], expected: list[list[int]]
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
    pipeline: _Pipeline, prompts: list[list[int]], expected: list[list[int]]
) -> None:
    pipeline.admit(0, prompts[0])
    pipeline.admit(1, prompts[1])
    pipeline.run(Segment(0, 0, 11, True))
    # It lives again before the plan that ends its first life is applied.
    pipeline.stages[0].admit(_admission(0, prompts[0] + expected[0][:2], 11))
    pipeline.run(Segment(0, 11, 1, True))
    pipeline.run(Segment(1, 0, 5, True), finished=(0,))
    pipeline.room[0] = 0
    pipeline.run(Segment(0, 0, 13, True))
    pipeline.decode(0, 13, 5)
    assert pipeline.tokens(0) == expected[0]


def test_tokens_of_an_earlier_life_are_dropped(
    pipeline: _Pipeline, prompts: list[list[int]], expected: list[list[int]]
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


def test_tokens_of_forgotten_sequences_are_dropped(pipeline: _Pipeline, prompts: list[list[int]]) -> None:
    runner = pipeline.stages[0]
    pipeline.admit(0, prompts[0])
    pipeline.run(Segment(0, 0, 11, True))
    pipeline.admit(1, prompts[1])
    pipeline.run(Segment(1, 0, 5, True), finished=(0,))
    runner.take_feedback(StepResult(EPOCH, 3, 0, [SampledToken(0, 5)]))


def test_the_first_stage_says_whether_a_token_is_missing(pipeline: _Pipeline, prompts: list[list[int]]) -> None:
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
    last = _runner(1, 2, 3, LAYERS)
    assert not last.needs_feedback(StepPlan(EPOCH, 2, 0, [], [], [], 1))


def test_tokens_and_lines_have_no_upper_limit() -> None:
    store = SequenceStore(1)
    for seq in range(5):
        store.admit(_admission(seq, [seq] * 250))
        store.append_blocks(seq, [seq + 1], 1)
    for step in range(1, 301):
        store.append_sampled([SampledToken(seq, 1000 * seq + step) for seq in range(5)], step)
    lines = store.lines([4, 0])
    tokens = store.segment_tokens(lines, np.array([249, 548]), np.array([3, 2]))
    assert tokens.tolist() == [4, 4001, 4002, 299, 300]
    assert store.tables(lines).tolist() == [[5], [1]]


# --- what is refused ------------------------------------------------------------------------------------------------


def test_another_epoch_is_refused(pipeline: _Pipeline) -> None:
    runner = pipeline.stages[0]
    with pytest.raises(StaleEpochError):
        runner.apply(StepPlan(EPOCH - 1, 1, 0, [], [], [], 0))
    with pytest.raises(StaleEpochError):
        runner.admit(AdmitSequence(EPOCH - 1, 0, [1], 1, GREEDY, 0, ()))
    with pytest.raises(StaleEpochError):
        runner.take_feedback(StepResult(EPOCH - 1, 1, 0, []))


def test_a_gap_in_the_steps_is_refused(pipeline: _Pipeline, prompts: list[list[int]]) -> None:
    pipeline.admit(0, prompts[0])
    pipeline.run(Segment(0, 0, 11, True))
    for step in (1, 3):
        with pytest.raises(StepGapError, match="step 2 comes next"):
            pipeline.stages[0].apply(StepPlan(EPOCH, step, 0, [], [], [], 0))


def test_a_new_epoch_begins_with_nothing_but_the_weights(
    pipeline: _Pipeline, prompts: list[list[int]], expected: list[list[int]]
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


# --- what requests ask for ------------------------------------------------------------------------------------------


def test_logprobs_of_prompt_and_output(
    pipeline: _Pipeline, prompts: list[list[int]], expected: list[list[int]]
) -> None:
    tokens = prompts[0] + expected[0][:2]
    wanted = reference_logprobs(tiny_model("llama"), [tokens])[0]
    pipeline.admit(0, prompts[0], logprobs=2, prompt_logprobs=3)
    pipeline.run(Segment(0, 0, 6, False))
    pipeline.run(Segment(0, 6, 5, True))
    pipeline.run(Segment(0, 11, 1, True))
    chunks = [chunk for result in pipeline.results for chunk in result.prompt_logprobs]
    assert [(chunk.seq, chunk.start, len(chunk.tokens)) for chunk in chunks] == [(0, 1, 6), (0, 7, 4)]
    found = [entry for chunk in chunks for entry in chunk.tokens]
    found += [token.logprobs for result in pipeline.results for token in result.tokens if token.logprobs]
    assert len(found) == 12
    for position, entry in enumerate(found, start=1):
        row = wanted[position - 1]
        count = 3 if position < 11 else 2
        assert entry.logprob == pytest.approx(row[tokens[position]].item(), abs=1e-4)
        assert entry.rank == int((row > row[tokens[position]]).sum()) + 1
        assert entry.top_ids == row.topk(count).indices.tolist()
        assert entry.top_logprobs == pytest.approx(row.topk(count).values.tolist(), abs=1e-4)


def test_a_prompt_that_only_asks_for_logprobs_samples_nothing(pipeline: _Pipeline, prompts: list[list[int]]) -> None:
    pipeline.admit(0, prompts[0], prompt_logprobs=0)
    result = pipeline.run(Segment(0, 0, 11, False))
    assert result.tokens == []
    assert len(result.prompt_logprobs[0].tokens) == 10


SAMPLED: dict[str, Any] = {
    "temperature": 0.8,
    "top_p": 0.9,
    "seed": 5,
    "presence_penalty": 0.5,
    "repetition_penalty": 1.2,
}


def test_sampled_tokens_do_not_depend_on_chunks_neighbours_or_preemption(
    pipeline: _Pipeline, prompts: list[list[int]]
) -> None:
    pipeline.admit(0, prompts[0], **SAMPLED)
    pipeline.run(Segment(0, 0, 11, True))
    pipeline.decode(0, 11, 6)
    alone = pipeline.tokens(0)
    assert len(alone) == 7

    runner = pipeline.stages[0]
    runner.begin_epoch(EPOCH)
    runner.allocate(60)
    other = _Pipeline(runner)
    other.admit(0, prompts[0], **SAMPLED)
    other.admit(1, prompts[1])
    other.run(Segment(0, 0, 4, False), Segment(1, 0, 5, True))
    other.run(Segment(1, 5, 1, True), Segment(0, 4, 7, True))
    other.run(Segment(0, 11, 1, True), Segment(1, 6, 1, True))
    other.run(Segment(1, 7, 1, True), finished=(0,))
    other.admit(0, prompts[0] + alone[:2], 11, **SAMPLED)
    other.run(Segment(0, 0, 13, True))
    other.decode(0, 13, 4)
    assert other.tokens(0) == alone


def test_hidden_states_cross_a_boundary_unchanged_in_shape(prompts: list[list[int]]) -> None:
    first = _runner(0, 2, 0, 2)
    first.admit(_admission(0, prompts[0]))
    plan = StepPlan(EPOCH, 1, 0, [Segment(0, 0, 11, True)], [(0, [1, 2, 3])], [], 0)
    first.apply(plan)
    hidden_TH, result = first.run(plan, None)
    assert result is None
    assert hidden_TH is not None
    assert hidden_TH.shape == (11, first.model.hidden_size)
    assert hidden_TH.dtype == torch.float32
