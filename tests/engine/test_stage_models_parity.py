"""Stages, ranks and packed rows give transformers' own tokens and log probabilities, for every verified family."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import transformers

from support.stage_pipeline import Pipeline, even_split
from support.tiny_models import (
    FAMILIES,
    LAYERS,
    VOCAB,
    parity_prompts,
    reference_greedy,
    reference_logprobs,
    tiny_model,
)

TOKENS = 10
LOGPROB_TOLERANCE = 1e-4


def check(
    family: str,
    ranges: Sequence[tuple[int, int]],
    tp: Sequence[int],
    chunk: int = 64,
    lengths: Sequence[int] = (1, 11, 20),
    max_model_len: int = 96,
) -> None:
    folder = tiny_model(family)
    prompts = parity_prompts(folder, lengths, TOKENS)
    expected = reference_greedy(folder, prompts, TOKENS)
    whole = reference_logprobs(folder, [prompt + tokens for prompt, tokens in zip(prompts, expected, strict=True)])
    with Pipeline(folder, ranges, tp, max_model_len) as pipeline:
        made, logprobs = pipeline.greedy(prompts, TOKENS, chunk)
    assert made == expected
    for prompt, rows_TV, reference_TV in zip(prompts, logprobs, whole, strict=True):
        assert (rows_TV - reference_TV[len(prompt) - 1 : -1]).abs().max() < LOGPROB_TOLERANCE


@pytest.mark.parametrize("stages", [1, 2, 3, 4])
@pytest.mark.parametrize(
    ("family", "tp"),
    # 4 ranks for 2 KV heads: two ranks hold the same.
    [(name, size) for name, family in FAMILIES.items() for size in family.possible_tp if size <= 3] + [("llama", 4)],
)
def test_any_cut_gives_the_same_tokens_and_logprobs(family: str, tp: int, stages: int) -> None:
    check(family, even_split(LAYERS, stages), [tp] * stages)


@pytest.mark.parametrize("family", FAMILIES)
def test_prompts_in_chunks_give_the_same(family: str) -> None:
    check(family, even_split(LAYERS, 2), [1, 1], chunk=7)


@pytest.mark.parametrize("tp", [[2, 1], [1, 2], [1, 4, 2]])
def test_stages_may_have_different_numbers_of_ranks(tp: list[int]) -> None:
    check("llama", even_split(LAYERS, len(tp)), tp)


def test_stages_may_be_uneven() -> None:
    check("gemma3", [(0, 4), (4, 5)], [1, 1])


@pytest.mark.parametrize("tp", [1, 2])
@pytest.mark.parametrize(("max_model_len", "lengths"), [(16, (4, 6)), (96, (20, 33))])
def test_longrope_takes_its_factors_from_the_longest_sequence_that_may_come(
    max_model_len: int, lengths: tuple[int, int], tp: int
) -> None:
    check("phi3-longrope", even_split(LAYERS, 2), [tp] * 2, lengths=lengths, max_model_len=max_model_len)


def test_longrope_of_a_row_does_not_depend_on_its_neighbours() -> None:
    folder = tiny_model("phi3-longrope")
    short, long = parity_prompts(folder, [5, 40], 6)
    with Pipeline(folder, [(0, LAYERS)], [1]) as pipeline:
        alone = pipeline.greedy([short], 6)[0]
        assert pipeline.greedy([short, long], 6)[0][:1] == alone


def test_an_unverified_architecture_runs_on_demand(tmp_path: Path) -> None:
    config = transformers.Gemma2Config(
        vocab_size=VOCAB,
        hidden_size=40,
        head_dim=12,
        intermediate_size=45,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=5,
        attn_logit_softcapping=3.0,
    )
    torch.manual_seed(0)
    model = transformers.Gemma2ForCausalLM(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(tmp_path)
    prompts = parity_prompts(tmp_path, [12], TOKENS)
    with Pipeline(tmp_path, [(0, 1), (1, 3)], [2, 2], allow_unverified=True) as pipeline:
        assert pipeline.greedy(prompts, TOKENS)[0] == reference_greedy(tmp_path, prompts, TOKENS)
