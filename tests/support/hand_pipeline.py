"""Stages of the tiny Llama joined by hand: no process, no scheduler; a test makes each plan."""

from __future__ import annotations

import functools
from typing import Any

from stageline_engine.core.deployment import RankSettings, StageSpec
from stageline_engine.core.messages import AdmitSequence, Segment, StepPlan, StepResult
from stageline_engine.core.request import SamplingParams
from stageline_engine.models.tensor_group import SoloGroup
from stageline_engine.stage.runner import StageRunner
from support.tiny_models import LAYERS, parity_prompts, reference_greedy, tiny_model

BLOCK_SIZE = 4
EPOCH = 3
NUM_BLOCKS = 60


def make_runner(stage: int = 0, num_stages: int = 1, start: int = 0, end: int = LAYERS) -> StageRunner:
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
    runner.allocate(NUM_BLOCKS)
    return runner


def make_admission(seq: int, tokens: list[int], prompt: int | None = None, **params: Any) -> AdmitSequence:
    sampling = SamplingParams(**{"temperature": 0.0, "seed": 0, **params})
    return AdmitSequence(EPOCH, seq, tokens, len(tokens) if prompt is None else prompt, sampling, 0, ())


class HandPipeline:
    """Stages that take each plan in turn. Blocks are never used again."""

    def __init__(self, *stages: StageRunner) -> None:
        self.stages = stages
        self.step = 0
        self.next_block = 1
        self.room: dict[int, int] = {}
        self.results: list[StepResult] = []

    def admit(self, seq: int, tokens: list[int], prompt: int | None = None, **params: Any) -> None:
        self.room[seq] = 0
        for stage in (self.stages[0], self.stages[-1]):
            stage.admit(make_admission(seq, tokens, prompt, **params))

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


def fresh_pipeline() -> HandPipeline:
    """The whole model as one stage; its weights are loaded once."""
    runner = _whole_model()
    runner.begin_epoch(EPOCH)
    runner.allocate(NUM_BLOCKS)
    return HandPipeline(runner)


@functools.cache
def _whole_model() -> StageRunner:
    return make_runner()


@functools.cache
def known_prompts() -> list[list[int]]:
    """Prompts of 11, 5 and 7 tokens."""
    return parity_prompts(tiny_model("llama"), [11, 5, 7], 8)


@functools.cache
def greedy_tokens() -> list[list[int]]:
    """The 8 tokens with which transformers continues each of the known prompts."""
    return reference_greedy(tiny_model("llama"), known_prompts(), 8)
