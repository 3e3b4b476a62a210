"""How layers are given to stages: exactly the best cut, for the costs that are predicted."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stageline_engine.core.config import ParallelConfig
from stageline_engine.core.errors import ConfigurationError
from stageline_engine.planning.devices import cpu, gpu
from stageline_engine.planning.memory import MemoryLimit, stage_weight_bytes
from stageline_engine.planning.partition import best_partition
from stageline_engine.planning.split import choose_split, stage_specs
from stageline_engine.planning.workload import Workload
from support.profiles import LLAMA_70B, SMOLLM2_135M, config, dense

GIB = 2**30
DECODE = Workload(prompt_tokens=0, output_tokens=1)
PREFILL = Workload(prompt_tokens=1, output_tokens=0)


@given(
    items=st.lists(st.integers(1, 9), min_size=2, max_size=8),
    parts=st.integers(1, 4),
    extra=st.integers(0, 20),
    longest=st.integers(1, 8),
)
def test_the_cut_is_the_best_of_all_cuts(items: list[int], parts: int, extra: int, longest: int) -> None:
    """Against trying every cut: the last part pays ``extra``, no part may be too long."""

    def cost(part: int, start: int, end: int) -> float | None:
        if end - start > longest:
            return None
        return float(sum(items[start:end]) + (extra if part == parts - 1 else 0))

    def total(sizes: tuple[int, ...]) -> float:
        bounds = list(itertools.accumulate(sizes, initial=0))
        costs = [cost(part, *bounds[part : part + 2]) for part in range(parts)]
        known = [one for one in costs if one is not None]
        return max(known) if len(known) == parts else float("inf")

    every = [sizes for sizes in itertools.product(range(1, len(items) + 1), repeat=parts) if sum(sizes) == len(items)]
    best = min((total(sizes) for sizes in every), default=float("inf"))
    found = best_partition(len(items), parts, cost)
    if best == float("inf"):
        assert found is None
    else:
        assert found is not None
        assert total(found) == best


@pytest.mark.parametrize("sequences", [16, 32, 64])
def test_the_output_head_of_a_small_model_counts_as_many_layers_in_decode(sequences: int) -> None:
    """Its matrix is that of 8 layers; without KV to read and small operations to launch it costs as much as 6 to 8."""
    short = choose_split(SMOLLM2_135M, config(stages=2, max_num_seqs=sequences), workload=DECODE)
    assert short in ((18, 12), (19, 11))


def test_the_output_head_counts_less_when_layers_have_much_kv_to_read() -> None:
    long = Workload(prompt_tokens=1, output_tokens=8000)
    assert choose_split(SMOLLM2_135M, config(stages=2), workload=long) < (17, 13)


def test_the_output_head_counts_for_nothing_in_prefill() -> None:
    assert choose_split(SMOLLM2_135M, config(stages=2), workload=PREFILL) == (15, 15)
    assert choose_split(SMOLLM2_135M, config(stages=3), workload=PREFILL) == (10, 10, 10)


def test_a_given_split_is_kept() -> None:
    assert choose_split(SMOLLM2_135M, config(stages=2, layer_split=(7, 23))) == (7, 23)


@pytest.mark.parametrize("stages", [1, 2, 3, 4, 7, 30])
def test_every_layer_goes_to_one_stage(stages: int) -> None:
    split = choose_split(SMOLLM2_135M, config(stages=stages))
    specs = stage_specs(SMOLLM2_135M, ParallelConfig(stages=stages), split)
    assert [spec.start for spec in specs] == [0, *(spec.end for spec in specs[:-1])]
    assert specs[-1].end == 30
    assert [spec.is_first for spec in specs] == [True] + [False] * (stages - 1)
    assert [spec.is_last for spec in specs] == [False] * (stages - 1) + [True]


def test_a_stage_with_more_ranks_gets_more_layers() -> None:
    first, last = choose_split(LLAMA_70B, config(stages=2, tp=(2, 1), device="cuda", dtype="bfloat16"))
    assert first > 1.5 * last
    specs = stage_specs(LLAMA_70B, ParallelConfig(stages=2, tp=(2, 1)), (first, last))
    assert [spec.tp for spec in specs] == [2, 1]


def test_memory_overrules_balance() -> None:
    # A vocabulary that makes both ends heavy: by time alone the first stage would get most layers.
    model = dense(
        layers=8, hidden=1024, inner=2048, heads=8, kv_heads=8, vocab=200_000, tied=False, possible_tp=(1, 2, 4, 8)
    )
    settings = config(stages=2, dtype="float32", max_model_len=64)
    by_time = choose_split(model, settings, workload=DECODE)
    first = stage_specs(model, settings.parallel, by_time)[0]
    limit = MemoryLimit(bytes=int(stage_weight_bytes(model, first, 4) / 0.9), source="test")
    by_memory = choose_split(model, settings, workload=DECODE, limit=limit)
    assert by_memory[0] < by_time[0]
    assert sum(by_memory) == 8


def test_what_is_missing_is_told_for_each_stage() -> None:
    limit = MemoryLimit(bytes=80 * GIB, flag="--gpus", value="H100", source="H100")
    settings = config(device="cuda", dtype="bfloat16")
    with pytest.raises(ConfigurationError) as caught:
        choose_split(LLAMA_70B, settings, device=gpu("H100"), limit=limit)
    assert str(caught.value).startswith("--gpus='H100': stage 0 misses 61.9 GiB per rank (weights 131 GiB")


def test_a_shorter_sequence_is_proposed_when_only_kv_is_too_large() -> None:
    limit = MemoryLimit(bytes=9 * GIB // 10, source="test")
    with pytest.raises(ConfigurationError, match=r"--max-model-len of at most (\d+)") as caught:
        choose_split(SMOLLM2_135M, config(max_model_len=8192), limit=limit)
    proposed = int(str(caught.value).rpartition(" ")[2])
    choose_split(SMOLLM2_135M, config(max_model_len=proposed), limit=limit)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (config(stages=31), "--stages=31: the model has 30 layers"),
        (config(tp=(2,)), "--tp=2: it does not divide the model (9 attention heads): possible are 1, 3, 9"),
        (config(stages=2, tp=(3, 4)), "--tp=4: it does not divide the model"),
        (config(stages=2, layer_split=(19, 12)), "--layer-split='19,12': it sums to 31: the model has 30 layers"),
        (config(stages=2, layer_split=(10, 10, 10)), "give 2 numbers"),
        (config(stages=2, layer_split=(30, 0)), "each stage needs at least one layer"),
    ],
)
def test_cuts_that_cannot_work_are_refused(settings: object, told: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        choose_split(SMOLLM2_135M, settings)  # type: ignore[arg-type]
    assert told in str(caught.value)


def test_many_stages_of_a_deep_model_are_planned_quickly_and_evenly() -> None:
    split = choose_split(LLAMA_70B, config(stages=16, device="cuda", dtype="bfloat16"))
    assert sum(split) == 80
    assert max(split) <= 6


def test_equal_layers_without_a_heavy_head_are_cut_evenly() -> None:
    rng = random.Random(0)
    for _ in range(20):
        layers, stages = rng.randint(4, 40), rng.randint(1, 4)
        model = dense(
            layers=layers, hidden=1024, inner=4096, heads=8, kv_heads=8, vocab=64, tied=False, possible_tp=(1,)
        )
        split = choose_split(model, config(stages=stages), device=cpu(1))
        assert max(split) == -(-layers // stages)
