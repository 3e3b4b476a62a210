"""Tokens from logits: what each parameter does, that rows do not influence each other, and that draws are right."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from stageline_engine.core.messages import AdmitSequence
from stageline_engine.core.request import SamplingParams
from stageline_engine.stage.logprobs import token_logprobs
from stageline_engine.stage.sampler import GROUP, NUCLEUS_TRIES, adjust, restrict, sample
from stageline_engine.stage.sequence_sampling import SequenceSampling

VOCAB = 700
"""Three groups, the last one not full."""
NEVER = float("-inf")


def _sequence(
    tokens: tuple[int, ...] = (1,), prompt: int = 1, choice: int = 0, eos: tuple[int, ...] = (), **params: Any
) -> SequenceSampling:
    sampling = SamplingParams(**{"seed": 0, **params})
    admission = AdmitSequence(1, 1, list(tokens), prompt, sampling, choice, eos)
    return SequenceSampling(admission, VOCAB, torch.device("cpu"))


def _logits(rows: int, seed: int = 0, scale: float = 2.0) -> torch.Tensor:
    return scale * torch.randn(rows, VOCAB, generator=torch.Generator().manual_seed(seed))


def _kept(logits: list[float], min_p: float = 0.0, top_k: int = 0, top_p: float = 1.0) -> list[int]:
    row = torch.tensor([logits])
    row -= row.amax()
    restrict(row, [min_p], [top_k], [top_p])
    return torch.nonzero(row[0] > NEVER).flatten().tolist()


def _adjusted(logits: torch.Tensor, position: int = 1, **params: Any) -> torch.Tensor:
    changed = logits.clone()
    adjust(changed, [_sequence(**params)], [position])
    return changed


# --- what is left to choose from ------------------------------------------------------------------------------------


def test_temperature_zero_takes_the_largest() -> None:
    logits = _logits(3)
    assert sample(logits.clone(), [_sequence(temperature=0.0)] * 3, [1, 2, 3]).tolist() == logits.argmax(-1).tolist()


@pytest.mark.parametrize("temperature", [1e-30, 1e-4])
def test_a_tiny_temperature_takes_the_largest_too(temperature: float) -> None:
    logits = _logits(3)
    sequences = [_sequence(temperature=temperature)] * 3
    assert sample(logits.clone(), sequences, [1, 2, 3]).tolist() == logits.argmax(-1).tolist()


def test_top_k_keeps_the_largest_and_what_equals_the_last_of_them() -> None:
    assert _kept([0.0, 3.0, 1.0, 2.0], top_k=2) == [1, 3]
    assert _kept([0.0, 3.0, 2.0, 2.0], top_k=2) == [1, 2, 3]
    assert _kept([0.0, 3.0, 1.0, 2.0], top_k=0) == _kept([0.0, 3.0, 1.0, 2.0], top_k=-1) == [0, 1, 2, 3]
    assert _kept([0.0, 3.0, 1.0, 2.0], top_k=4) == [0, 1, 2, 3]


def test_top_p_keeps_the_fewest_that_reach_it() -> None:
    logits = torch.tensor([0.15, 0.5, 0.05, 0.3]).log().tolist()
    assert _kept(logits, top_p=0.49) == [1]
    assert _kept(logits, top_p=0.51) == [1, 3]
    assert _kept(logits, top_p=0.79) == [1, 3]
    assert _kept(logits, top_p=0.81) == [0, 1, 3]
    assert _kept(logits, top_p=0.999) == [0, 1, 2, 3]
    assert _kept(logits, top_p=1e-9) == [1]


def test_min_p_is_relative_to_the_largest() -> None:
    logits = torch.tensor([0.15, 0.5, 0.05, 0.3]).log().tolist()
    assert _kept(logits, min_p=0.29) == [0, 1, 3]
    assert _kept(logits, min_p=0.31) == [1, 3]
    assert _kept(logits, min_p=1.0) == [1]


def test_top_p_counts_what_top_k_and_min_p_left() -> None:
    logits = torch.tensor([0.15, 0.5, 0.05, 0.3]).log().tolist()
    # Of the two that are left, the larger has 0.625.
    assert _kept(logits, top_k=2, top_p=0.6) == [1]
    assert _kept(logits, min_p=0.5, top_p=0.6) == [1]
    assert _kept(logits, top_p=0.6) == [1, 3]


@pytest.mark.parametrize("top_p", [0.3, 0.9, 0.999999])
def test_a_nucleus_larger_than_the_first_look(top_p: float) -> None:
    logits = _logits(1, scale=0.01)[0]
    probabilities, order = logits.double().softmax(-1).sort(descending=True)
    count = int((probabilities.cumsum(0) < top_p).sum()) + 1
    kept = _kept(logits.tolist(), top_p=top_p)
    assert kept == sorted(order[:count].tolist())
    assert (len(kept) > NUCLEUS_TRIES[0]) == (top_p > 0.5)


# --- adjustments ----------------------------------------------------------------------------------------------------


def test_repetition_penalty_counts_prompt_and_output() -> None:
    logits = _logits(1)
    changed = _adjusted(logits, tokens=(5, 6, 7), prompt=2, repetition_penalty=2.0)
    for token in range(VOCAB):
        value = logits[0, token]
        expected = value if token not in (5, 6, 7) else value / 2 if value > 0 else value * 2
        assert changed[0, token] == expected


def test_presence_and_frequency_penalties_count_output_only() -> None:
    logits = torch.zeros(1, VOCAB)
    changed = _adjusted(logits, tokens=(5, 6, 7, 7), prompt=2, presence_penalty=0.5, frequency_penalty=0.25)
    assert changed[0, 7] == -1.0
    assert changed[0].count_nonzero() == 1


def test_tokens_chosen_since_admission_count_like_those_of_a_re_admission() -> None:
    grown = _sequence(tokens=(5, 6), prompt=2, frequency_penalty=1.0, repetition_penalty=1.5)
    for token in (9, 9, 3):
        grown.saw(token)
    admitted = _sequence(tokens=(5, 6, 9, 9, 3), prompt=2, frequency_penalty=1.0, repetition_penalty=1.5)
    logits = _logits(1)
    first, second = logits.clone(), logits.clone()
    adjust(first, [grown], [5])
    adjust(second, [admitted], [5])
    assert torch.equal(first, second)


def test_bias_is_added_after_penalties() -> None:
    logits = torch.full((1, VOCAB), 4.0)
    changed = _adjusted(logits, tokens=(5,), prompt=1, repetition_penalty=2.0, logit_bias={5: 10.0, 6: -100.0})
    assert changed[0, [4, 5, 6]].tolist() == [4.0, 12.0, -96.0]


def test_min_tokens_silences_what_could_end_the_sequence() -> None:
    logits = torch.zeros(1, VOCAB)
    params: dict[str, Any] = {
        "tokens": (1, 2, 3), "prompt": 3, "eos": (10, 11), "stop_token_ids": (12,), "min_tokens": 2,
        "logit_bias": {10: 50.0},
    }  # fmt: skip
    for position in (3, 4):
        changed = _adjusted(logits, position, **params)
        assert torch.nonzero(changed[0] == NEVER).flatten().tolist() == [10, 11, 12]
    assert not (_adjusted(logits, 5, **params) == NEVER).any()


def test_adjustments_act_on_greedy_choices() -> None:
    logits = _logits(1)
    sequence = _sequence(temperature=0.0, logit_bias={3: 100.0})
    assert sample(logits, [sequence], [1]).tolist() == [3]


# --- randomness -----------------------------------------------------------------------------------------------------

MIXED: list[dict[str, Any]] = [
    {},
    {"temperature": 0.0},
    {"temperature": 0.7, "top_k": 5},
    {"top_p": 0.8},
    {"min_p": 0.1, "top_p": 0.95},
    {"temperature": 1.7, "top_k": 50, "top_p": 0.9, "min_p": 0.01},
    {"tokens": (3, 4, 5, 5), "prompt": 2, "presence_penalty": 1.0, "repetition_penalty": 1.3},
    {"tokens": (3, 4, 5, 5), "prompt": 1, "frequency_penalty": -1.0, "temperature": 0.0},
    {"logit_bias": {3: 4.0, 699: 4.0}, "min_tokens": 3, "eos": (3,)},
    {"top_p": 0.9999},
]


def test_a_row_is_the_same_alone_and_in_a_batch() -> None:
    sequences = [_sequence(**{**params, "seed": seed}) for seed in range(8) for params in MIXED]
    positions = [1 + row % 7 for row in range(len(sequences))]
    logits = _logits(len(sequences))
    together = sample(logits.clone(), sequences, positions).tolist()
    alone = [sample(logits[r : r + 1].clone(), [sequences[r]], [positions[r]]).item() for r in range(len(sequences))]
    assert together == alone
    backwards = sample(logits.flip(0), sequences[::-1], positions[::-1]).tolist()
    assert backwards[::-1] == together


def test_seed_choice_and_position_each_change_the_draw() -> None:
    logits = torch.zeros(1, VOCAB).repeat(40, 1)

    def draws(seed: int = 1, choice: int = 0, first: int = 1) -> list[int]:
        sequence = _sequence(seed=seed, choice=choice)
        tokens: list[int] = sample(logits.clone(), [sequence] * 40, list(range(first, first + 40))).tolist()
        return tokens

    assert draws() == draws()
    for other in (draws(seed=2), draws(choice=1), draws(first=50)):
        assert sum(one == two for one, two in zip(draws(), other, strict=True)) < 4


def test_seeds_keep_their_meaning() -> None:
    logits = torch.zeros(6, VOCAB)
    sequences = [_sequence(seed=seed) for seed in (0, 1, 2, -1, 2**63 - 1, 123456789)]
    assert sample(logits, sequences, [1, 2, 3, 4, 5, 6]).tolist() == [565, 511, 336, 63, 272, 149]


@pytest.mark.parametrize("params", [{}, {"temperature": 0.6}, {"top_k": 12}, {"top_p": 0.7}, {"min_p": 0.2}])
def test_tokens_are_drawn_with_their_probabilities(params: dict[str, Any]) -> None:
    draws = 20_000
    # Weight in all three groups, among them single tokens.
    logits = torch.full((VOCAB,), -20.0)
    chosen = [0, 1, 2, 100, 255, 256, 300, 511, 512, 600, 699, *range(400, 420)]
    logits[chosen] = torch.linspace(-1.0, 3.0, len(chosen))
    assert VOCAB > 2 * GROUP
    sequence = _sequence(seed=11, **params)
    found = torch.zeros(VOCAB)
    for start in range(0, draws, 2000):
        tokens = sample(logits.repeat(2000, 1), [sequence] * 2000, list(range(start, start + 2000)))
        found += tokens.bincount(minlength=VOCAB)
    scaled = (logits - logits.max()).unsqueeze(0) / params.get("temperature", 1.0)
    restrict(scaled, [params.get("min_p", 0.0)], [params.get("top_k", 0)], [params.get("top_p", 1.0)])
    expected = draws * scaled[0].double().softmax(-1)
    assert found[expected == 0].sum() == 0
    likely = expected > 5
    squares = ((found[likely] - expected[likely]) ** 2 / expected[likely]).sum()
    freedom = int(likely.sum()) - 1
    # Mean plus four standard deviations of the chi-squared distribution.
    assert squares < freedom + 4 * (2 * freedom) ** 0.5


# --- log probabilities ----------------------------------------------------------------------------------------------


def test_logprobs_are_the_log_softmax_with_rank_and_top() -> None:
    logits = _logits(3)
    expected = logits.log_softmax(-1)
    best = logits.argmax(-1)
    found = token_logprobs(logits, [int(best[0]), 17, 30], [0, 3, 20])
    assert found[0].rank == 1
    assert found[0].top_ids == []
    for row, (entry, token, count) in enumerate(zip(found, [int(best[0]), 17, 30], [0, 3, 20], strict=True)):
        assert entry.logprob == pytest.approx(expected[row, token].item(), abs=1e-5)
        assert entry.rank == int((expected[row] > expected[row, token]).sum()) + 1
        assert entry.top_ids == expected[row].topk(count).indices.tolist()
        assert entry.top_logprobs == pytest.approx(expected[row].topk(count).values.tolist(), abs=1e-5)
