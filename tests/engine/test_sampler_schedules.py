"""Sampled tokens are a request's own: cuts, chunks, neighbours, prefix hits and preemption do not change them."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pytest

from stageline_engine.core.request import SamplingParams
from support.inline_engine import InlineEngine, even_split
from support.tiny_models import LAYERS, tiny_model

KINDS: list[dict[str, Any]] = [
    {"temperature": 0.7},
    {"top_p": 0.8},
    {"top_k": 9, "min_p": 0.02},
    {"presence_penalty": 1.0, "repetition_penalty": 1.2},
    {"temperature": 0.0, "frequency_penalty": 0.7, "prompt_logprobs": 1},
    {"logprobs": 2, "logit_bias": {65: 3.0}},
    {"temperature": 1.5, "min_tokens": 9, "stop_token_ids": (65, 66)},
]
PREFIX = [70 + 3 * position % 50 for position in range(17)]
REQUESTS = [
    (
        [*PREFIX[: 2 * number], number * 31 % 256, number, 200 - number],
        {**kind, "seed": number, "max_tokens": 8 + number},
    )
    for number, kind in enumerate(KINDS)
]


def _tokens(engine: InlineEngine, chosen: list[int]) -> dict[int, list[int]]:
    number_of = {}
    for number in chosen:
        prompt, params = REQUESTS[number]
        number_of[engine.add(prompt, SamplingParams(**params))] = number
    tokens: dict[int, list[int]] = defaultdict(list)
    for output in engine.run():
        tokens[number_of[output.request_id]] += output.token_ids
    return tokens


@pytest.fixture(scope="module")
def alone() -> dict[int, list[int]]:
    tokens: dict[int, list[int]] = {}
    with InlineEngine(tiny_model("mistral"), [(0, LAYERS)], enable_prefix_caching=False, slots=1) as engine:
        for number in range(len(REQUESTS)):
            tokens |= _tokens(engine, [number])
            engine.events.clear()
    return tokens


@pytest.mark.parametrize(
    "settings",
    [
        {"stages": 1, "tp": 1, "num_blocks": 24, "slots": 1},
        {"stages": 2, "tp": 2, "num_blocks": 24, "slots": 3, "max_num_batched_tokens": 9},
        {"stages": 3, "tp": (2, 1, 4), "slots": 4},
    ],
)
def test_together_as_alone(settings: dict[str, Any], alone: dict[int, list[int]]) -> None:
    ranges = even_split(LAYERS, settings["stages"])
    others = {name: value for name, value in settings.items() if name != "stages"}
    with InlineEngine(tiny_model("mistral"), ranges, **others) as engine:
        assert _tokens(engine, list(range(len(REQUESTS)))) == alone
        engine.events.clear()
        # Again, in another order, with the prefixes of the first time in the cache.
        assert _tokens(engine, list(range(len(REQUESTS)))[::-1]) == alone
        stats = engine.scheduler.stats()
        assert stats.prefix_hits > 0
        assert stats.preemptions > 0 or "num_blocks" not in settings
