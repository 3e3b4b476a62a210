"""The fixed synthetic workloads: first step of a benchmark. Pure; no engine, no clock.

Lengths are the same on every run and machine. Prompts are token ids drawn from (seed, workload, round). No two requests
of a workload begin with the same token, so none finds another's prefix, and a round finds nothing of an earlier one.
"""

from __future__ import annotations

import math
import random
from statistics import NormalDist

import msgspec

from stageline_engine.core.errors import ConfigurationError

FIRST_TOKEN, LAST_TOKEN = 10, 249
"""Range of the drawn ids: in every vocabulary, and above the special tokens that most put first. Which ids they are
does not change the work of a dense model."""


class SyntheticRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One request: a prompt, and how many tokens to generate whatever they are."""

    prompt_token_ids: list[int]
    output_tokens: int


class Workload(msgspec.Struct, frozen=True, kw_only=True):
    """Requests that are all sent at once."""

    name: str
    summary: str
    lengths: tuple[tuple[int, int], ...]
    """(prompt tokens, output tokens) of each request."""

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence, prompt and output."""
        return max(prompt + output for prompt, output in self.lengths)

    def requests(self, seed: int, round_: int) -> list[SyntheticRequest]:
        """The requests of one round; equal arguments give equal requests."""
        draw = random.Random(f"{seed}/{self.name}/{round_}")
        firsts = list(range(FIRST_TOKEN, LAST_TOKEN + 1))
        draw.shuffle(firsts)
        return [
            SyntheticRequest(prompt_token_ids=[first, *(_token(draw) for _ in range(prompt - 1))], output_tokens=output)
            for first, (prompt, output) in zip(firsts, self.lengths, strict=False)
        ]


def _token(draw: random.Random) -> int:
    return FIRST_TOKEN + int(draw.random() * (LAST_TOKEN + 1 - FIRST_TOKEN))


def _log_normal(draw: random.Random, median: float, sigma: float, low: int, high: int) -> int:
    # 1 - random() is in (0, 1], and inv_cdf wants an open interval.
    normal = NormalDist().inv_cdf(min(1 - draw.random(), 1 - 2**-53))
    return min(high, max(low, round(median * math.exp(sigma * normal))))


MIXED_REQUESTS = 48
MIXED_SEED = "mixed lengths"
PROMPT_MEDIAN, PROMPT_SIGMA, PROMPT_LOW, PROMPT_HIGH = 128, 0.8, 16, 512
OUTPUT_MEDIAN, OUTPUT_SIGMA, OUTPUT_LOW, OUTPUT_HIGH = 64, 0.6, 8, 256


def _mixed_lengths() -> tuple[tuple[int, int], ...]:
    draw = random.Random(MIXED_SEED)
    return tuple(
        (
            _log_normal(draw, PROMPT_MEDIAN, PROMPT_SIGMA, PROMPT_LOW, PROMPT_HIGH),
            _log_normal(draw, OUTPUT_MEDIAN, OUTPUT_SIGMA, OUTPUT_LOW, OUTPUT_HIGH),
        )
        for _ in range(MIXED_REQUESTS)
    )


WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload(name="W1", summary="32 × (64 in, 128 out)", lengths=((64, 128),) * 32),
        Workload(name="W2", summary="16 × (512 in, 16 out)", lengths=((512, 16),) * 16),
        Workload(name="W3", summary="1 × (64 in, 128 out)", lengths=((64, 128),)),
        Workload(name="W4", summary=f"{MIXED_REQUESTS} mixed lengths, log-normal", lengths=_mixed_lengths()),
    )
}
WARM_UP = Workload(name="warm-up", summary="16 × (128 in, 16 out)", lengths=((128, 16),) * 16)
"""Runs before what is measured: allocators, caches and the scheduler's predictions settle."""


def parse_workloads(text: str) -> list[Workload]:
    """``W1,W2``, in the order given.

    Raises:
        ConfigurationError: a name is unknown or given twice.
    """
    names = [name.strip().upper() for name in text.split(",")]
    if len(set(names)) != len(names) or not set(names) <= set(WORKLOADS):
        raise ConfigurationError(
            "--workloads", text, f"write some of {', '.join(WORKLOADS)}, each once, with commas between them"
        )
    return [WORKLOADS[name] for name in names]
