"""One rank driven by hand-made plans: what requests ask for comes out, however the scheduler cuts them."""

from __future__ import annotations

from typing import Any

import pytest

from stageline_engine.core.messages import Segment
from support.hand_pipeline import (
    EPOCH,
    HandPipeline,
)
from support.tiny_models import reference_logprobs, tiny_model


def test_logprobs_of_prompt_and_output(
    pipeline: HandPipeline, prompts: list[list[int]], expected: list[list[int]]
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


def test_a_prompt_that_only_asks_for_logprobs_samples_nothing(pipeline: HandPipeline, prompts: list[list[int]]) -> None:
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
    pipeline: HandPipeline, prompts: list[list[int]]
) -> None:
    pipeline.admit(0, prompts[0], **SAMPLED)
    pipeline.run(Segment(0, 0, 11, True))
    pipeline.decode(0, 11, 6)
    alone = pipeline.tokens(0)
    assert len(alone) == 7

    runner = pipeline.stages[0]
    runner.begin_epoch(EPOCH)
    runner.allocate(60)
    other = HandPipeline(runner)
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
