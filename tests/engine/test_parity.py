"""Parity is the definition of right: the same greedy tokens as transformers, however the model is cut and scheduled."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from stageline_engine.core.request import SamplingParams
from support.inline_engine import GREEDY, InlineEngine, even_split, tokens_by_request
from support.tiny_models import FAMILIES, LAYERS, parity_prompts, reference_greedy, reference_logprobs, tiny_model

MAX_TOKENS = GREEDY.max_tokens or 0
LENGTHS = (3, 17, 9, 30, 5)
CUTS = [
    pytest.param(family, stages, tp, id=f"{family}-pp{stages}-tp{tp}")
    for family, spec in FAMILIES.items()
    for stages in (1, 2, 3, 4)
    for tp in spec.possible_tp
    if tp <= 3
]

TWO_STAGES = [
    pytest.param(family, 2, tp, id=f"{family}-pp2-tp{tp}")
    for family, spec in FAMILIES.items()
    for tp in spec.possible_tp
    if tp <= 2
]
SHARED_BLOCKS = [*TWO_STAGES, pytest.param("llama", 4, 2, id="llama-pp4-tp2")]


def prepared(family: str, lengths: tuple[int, ...] = LENGTHS) -> tuple[Path, list[list[int]], list[list[int]]]:
    folder = tiny_model(family)
    prompts = parity_prompts(folder, lengths, MAX_TOKENS)
    return folder, prompts, reference_greedy(folder, prompts, MAX_TOKENS)


@pytest.mark.parametrize(("family", "stages", "tp"), CUTS)
def test_every_cut_gives_the_reference_tokens(family: str, stages: int, tp: int) -> None:
    folder, prompts, expected = prepared(family)
    # 16 rows a micro-batch: prompts are chunked, and decode rows share micro-batches with chunks.
    with InlineEngine(folder, even_split(LAYERS, stages), tp, max_num_batched_tokens=16) as engine:
        assert engine.generate(prompts) == expected
        engine.scheduler.check()


@pytest.mark.parametrize("family", FAMILIES)
def test_logprobs_are_those_of_transformers(family: str) -> None:
    folder, prompts, expected = prepared(family)
    params = SamplingParams(temperature=0.0, max_tokens=MAX_TOKENS, ignore_eos=True, logprobs=3, prompt_logprobs=2)
    with InlineEngine(folder, even_split(LAYERS, 2), 1, max_num_batched_tokens=16) as engine:
        ids = [engine.add(prompt, params) for prompt in prompts]
        outputs = engine.run()
    for request_id, prompt, tokens in zip(ids, prompts, expected, strict=True):
        mine = [output for output in outputs if output.request_id == request_id]
        sequence = prompt + tokens
        (reference_TV,) = reference_logprobs(folder, [sequence])
        told = [None, *mine[0].prompt_logprobs[1:], *(one for output in mine for one in output.logprobs)]
        assert mine[0].prompt_logprobs[0] is None
        assert len(told) == len(sequence)
        for position in range(1, len(sequence)):
            entry = told[position]
            assert entry is not None
            scores_V = reference_TV[position - 1]
            assert entry.logprob == pytest.approx(float(scores_V[sequence[position]]), abs=1e-4)
            assert entry.top_logprobs == pytest.approx(scores_V[entry.top_ids].tolist(), abs=1e-4)
            best_K = scores_V.topk(len(entry.top_ids)).values
            assert torch.allclose(best_K, torch.tensor(entry.top_logprobs), atol=1e-4)


@pytest.mark.parametrize("tp", [(2, 1), (1, 2), (2, 1, 2)])
def test_stages_may_have_different_numbers_of_ranks(tp: tuple[int, ...]) -> None:
    folder, prompts, expected = prepared("llama")
    with InlineEngine(folder, even_split(LAYERS, len(tp)), tp) as engine:
        assert engine.generate(prompts) == expected


@pytest.mark.parametrize(("family", "stages", "tp"), SHARED_BLOCKS)
def test_prefix_hits_change_no_token(family: str, stages: int, tp: int) -> None:
    folder, prompts, expected = prepared(family)
    with InlineEngine(folder, even_split(LAYERS, stages), tp) as engine:
        assert engine.generate(prompts) == expected
        ids = [engine.add(prompt) for prompt in prompts]
        outputs = engine.run()
        tokens = tokens_by_request(outputs)
        assert [tokens[request_id, 0] for request_id in ids] == expected
        hits = {output.request_id: output.num_cached_tokens for output in outputs}
        assert hits[ids[3]] >= 28
        engine.scheduler.check()


@pytest.mark.parametrize(("family", "stages", "tp"), SHARED_BLOCKS)
def test_preemption_changes_no_token(family: str, stages: int, tp: int) -> None:
    folder, prompts, expected = prepared(family)
    # The longest needs 11 blocks of 4; together they need 29.
    with InlineEngine(folder, even_split(LAYERS, stages), tp, num_blocks=14, enable_prefix_caching=False) as engine:
        assert engine.generate(prompts) == expected
        assert engine.scheduler.stats().preemptions > 0
        engine.scheduler.check()


@pytest.mark.parametrize("slots", [1, 2, 3, 5])
@pytest.mark.parametrize("stages", [1, 3])
def test_any_number_of_micro_batches_gives_the_same_tokens(slots: int, stages: int) -> None:
    lengths = tuple(random.Random(7).randint(1, 40) for _ in range(24))
    folder, prompts, expected = prepared("llama", lengths)
    with InlineEngine(folder, even_split(LAYERS, stages), slots=slots, max_num_seqs=24, num_blocks=500) as engine:
        assert engine.generate(prompts) == expected


@pytest.mark.parametrize(("family", "tp"), [("llama", 1), ("llama", 2), ("gemma3", 1), ("mixtral", 2)])
def test_cancelled_neighbours_change_no_token(family: str, tp: int) -> None:
    folder, prompts, expected = prepared(family, tuple(range(2, 26)))
    noise = random.Random(3)
    with InlineEngine(folder, even_split(LAYERS, 2), tp, slots=3, num_blocks=60) as engine:
        ids = [engine.add(prompt) for prompt in prompts]
        victims = noise.sample(ids, 12)
        moments = {noise.randrange(40): victim for victim in victims}

        def cancel(turn: int) -> None:
            if turn in moments:
                engine.abort(moments[turn])

        outputs = engine.run(cancel)
        tokens = tokens_by_request(outputs)
        cancelled = {output.request_id for output in outputs if output.finish_reason == "abort"}
        assert cancelled
        for request_id, wanted in zip(ids, expected, strict=True):
            got = tokens.get((request_id, 0), [])
            assert got == wanted if request_id not in cancelled else got == wanted[: len(got)]
        engine.scheduler.check()
        stats = engine.scheduler.stats()
        assert stats.num_free_blocks == stats.num_blocks


def test_choices_of_one_request_share_their_prompt_and_draw_apart() -> None:
    folder, prompts, _ = prepared("llama")
    params = SamplingParams(temperature=1.0, max_tokens=8, ignore_eos=True, seed=11, n=4)
    with InlineEngine(folder, even_split(LAYERS, 2)) as engine:
        request_id = engine.add(prompts[3], params)
        drawn = tokens_by_request(engine.run())
        assert len({tuple(drawn[request_id, choice]) for choice in range(4)}) > 1
        again = engine.add(prompts[3], params)
        alone = tokens_by_request(engine.run())
        assert [alone[again, choice] for choice in range(4)] == [drawn[request_id, choice] for choice in range(4)]


def test_sampled_tokens_do_not_depend_on_the_cut_or_on_preemption() -> None:
    folder, prompts, _ = prepared("llama")
    params = SamplingParams(temperature=0.8, top_p=0.9, top_k=40, max_tokens=10, ignore_eos=True, seed=5)
    seen = []
    for stages, num_blocks in ((1, 200), (3, 200), (2, 14)):
        with InlineEngine(
            folder, even_split(LAYERS, stages), num_blocks=num_blocks, enable_prefix_caching=False
        ) as engine:
            seen.append(engine.generate(prompts, params))
    assert seen[0] == seen[1] == seen[2]
