"""The engine loop at its door: what it refuses by itself, and what its heartbeat leaves in the books."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from stageline_engine.core.messages import Rejected
from stageline_engine.core.request import SamplingParams
from support.inline_engine import GREEDY, InlineEngine, even_split
from support.tiny_models import LAYERS, VOCAB, tiny_model


@pytest.fixture(scope="module")
def engine() -> Iterator[InlineEngine]:
    with InlineEngine(tiny_model("llama"), even_split(LAYERS, 2)) as running:
        yield running


@pytest.mark.parametrize(
    ("prompt", "params", "field", "value"),
    [
        ([999_999], GREEDY, "prompt", "999999"),
        ([5, VOCAB], GREEDY, "prompt", str(VOCAB)),
        ([5, -1, 7], GREEDY, "prompt", "-1"),
        ([], GREEDY, "prompt", ""),
        ([5], SamplingParams(temperature=-1.0), "temperature", "-1.0"),
        ([5], SamplingParams(logit_bias={VOCAB: 1.0}), "logit_bias", str(VOCAB)),
        ([5], SamplingParams(stop_token_ids=(-1,)), "stop_token_ids", "-1"),
        ([5], SamplingParams(n=0), "n", "0"),
    ],
    ids=str,
)
def test_what_no_stage_can_take_is_refused_and_the_engine_lives_on(
    engine: InlineEngine, prompt: list[int], params: SamplingParams, field: str, value: str
) -> None:
    request_id = engine.add(prompt, params)
    (refusal,) = engine.events
    assert isinstance(refusal, Rejected)
    assert (refusal.request_id, refusal.field, refusal.value) == (request_id, field, value)
    assert not refusal.retry_after
    assert refusal.message
    engine.events.clear()
    assert len(engine.generate([[5, 6, 7]])[0]) == GREEDY.max_tokens


def test_heartbeats_neither_wait_nor_run_for_those_who_look(engine: InlineEngine) -> None:
    def seen() -> tuple[int, int]:
        snapshot = engine.stats.snapshot(engine.scheduler, [], False, time.monotonic())
        return snapshot.num_running, snapshot.num_waiting

    engine.loop.check(time.monotonic() + 60)
    assert engine.scheduler.has_work
    assert seen() == (0, 0)
    step = engine.scheduler.plan(time.monotonic())
    assert step is not None
    assert seen() == (0, 0)
    for admission in step.admissions:
        engine.executor.admit(admission)
    engine.executor.submit(step.plan)
    assert engine.run() == []


def test_heartbeats_are_no_queries_of_the_prefix_cache(engine: InlineEngine) -> None:
    before = engine.scheduler.stats()
    engine.loop.check(time.monotonic() + 60)
    assert engine.scheduler.has_work
    assert engine.run() == []
    after = engine.scheduler.stats()
    assert after.steps > before.steps
    assert after.prefix_queries == before.prefix_queries
