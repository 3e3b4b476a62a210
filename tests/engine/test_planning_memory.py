"""Bytes of weights and KV, and how many KV blocks the ranks get."""

from __future__ import annotations

import msgspec
import pytest

from stageline_engine.core.deployment import RankLoaded, StageSpec
from stageline_engine.core.errors import ConfigurationError
from stageline_engine.planning.devices import gpu
from stageline_engine.planning.memory import (
    MemoryLimit,
    check_kv_memory,
    kv_blocks,
    kv_budgets,
    kv_bytes_per_token,
    machine_limit,
    stage_weight_bytes,
)
from stageline_engine.planning.scale import scale_table
from stageline_engine.planning.threads import default_threads
from stageline_engine.planning.units import parse_bytes, show_bytes
from stageline_engine.planning.workload import Workload
from support.profiles import LLAMA_70B, SMOLLM2_135M, config, dense

GIB = 2**30


def spec(start: int, end: int, *, of: int, tp: int = 1) -> StageSpec:
    stages = 1 if (start, end) == (0, of) else 2
    return StageSpec(stage=int(start > 0), num_stages=stages, start=start, end=end, tp=tp)


def loaded(stage: int = 0, rank: int = 0, *, block: int = 1000, free: int = 10**9) -> RankLoaded:
    return RankLoaded(
        stage=stage,
        rank=rank,
        weight_bytes=0,
        bytes_read=0,
        kv_block_bytes=block,
        free_bytes=free,
        load_seconds=0.0,
    )


def test_weights_of_a_whole_model_are_its_parameters() -> None:
    assert stage_weight_bytes(SMOLLM2_135M, spec(0, 30, of=30), 2) == 2 * 134_515_008


def test_a_tied_embedding_is_held_by_both_ends_when_they_differ() -> None:
    whole = stage_weight_bytes(SMOLLM2_135M, spec(0, 30, of=30), 1)
    parts = [stage_weight_bytes(SMOLLM2_135M, spec(start, end, of=30), 1) for start, end in ((0, 19), (19, 30))]
    assert sum(parts) == whole + 49152 * 576


def test_tensor_parallelism_divides_what_is_sharded_only() -> None:
    one, four = (stage_weight_bytes(LLAMA_70B, spec(0, 40, of=80, tp=tp), 2) for tp in (1, 4))
    embedding = 128256 * 8192 * 2
    norms = 40 * 2 * 8192 * 2
    assert four - embedding - norms == (one - embedding - norms) / 4


@pytest.mark.parametrize(("tp", "heads"), [(1, 8), (2, 4), (8, 1), (16, 1)])
def test_kv_heads_are_divided_down_to_one(tp: int, heads: int) -> None:
    assert kv_bytes_per_token(LLAMA_70B, spec(0, 40, of=80, tp=tp), 2) == 40 * 2 * heads * 128 * 2


def test_kv_that_is_not_sharded_is_whole_on_each_rank() -> None:
    model = dense(
        layers=2, hidden=64, inner=64, heads=8, kv_heads=8, vocab=64, tied=False, possible_tp=(1, 2), kv_sharded=False
    )
    assert kv_bytes_per_token(model, spec(0, 2, of=2, tp=2), 1) == kv_bytes_per_token(model, spec(0, 2, of=2), 1)


def test_blocks_are_what_the_tightest_rank_holds() -> None:
    ranks = [loaded(0, block=1000), loaded(1, block=4000), loaded(1, 1, block=4000, free=9 * 10**8)]
    settings = config(stages=2, max_num_seqs=10_000)
    # Three ranks share the machine; 60 % of a third of what the last one sees.
    assert kv_blocks(ranks, settings, 160) == int(9 * 10**8 // 3 * 0.6) // 4000


def test_ranks_on_machines_of_their_own_share_with_their_stage_only() -> None:
    ranks = [loaded(0), loaded(1, 0, block=1500), loaded(1, 1, block=1500)]
    settings = config(stages=2, max_num_seqs=100_000, executor="ray")
    assert kv_blocks(ranks, settings, 160) == int(10**9 // 2 * 0.6) // 1500


def test_gpus_do_not_share_memory_and_give_what_a_plan_says() -> None:
    settings = config(stages=2, device="cuda", max_num_seqs=100_000)
    ranks = [msgspec.structs.replace(loaded(stage), weight_bytes=10**9) for stage in (0, 1)]
    planned = MemoryLimit(bytes=2 * 10**9, source="test").kv_bytes(10**9)
    assert kv_blocks(ranks, settings, 160) == planned // 1000 == 800_000


def test_ranks_of_a_machine_share_what_the_weights_of_all_leave() -> None:
    settings = config(stages=2, max_num_seqs=100_000)
    specs = [spec(0, 10, of=30), spec(10, 30, of=30)]
    weights = sum(stage_weight_bytes(SMOLLM2_135M, one, 4) for one in specs)
    limit = machine_limit(settings, weights + 2 * GIB)
    assert kv_budgets(SMOLLM2_135M, specs, settings, limit) == [pytest.approx(0.6 * GIB)] * 2


def test_no_more_blocks_than_can_be_used() -> None:
    assert kv_blocks([loaded()], config(max_num_seqs=3), 33) == 3 * 3 + 1  # and the scratch block


def test_a_given_size_is_taken() -> None:
    settings = config(kv_memory=50_999, max_num_seqs=100)
    assert kv_blocks([loaded(block=1000)], settings, 160) == 50


def test_a_given_size_holds_one_whole_sequence_and_the_scratch_block() -> None:
    settings, specs = config(max_model_len=160), [spec(0, 30, of=30)]
    blocks = 160 // settings.cache.block_size + 1
    least = blocks * settings.cache.block_size * kv_bytes_per_token(SMOLLM2_135M, specs[0], 4)
    check_kv_memory(SMOLLM2_135M, specs, config(max_model_len=160, kv_memory=least))
    with pytest.raises(ConfigurationError, match=f"--kv-memory={least - 1}: stage 0 needs"):
        check_kv_memory(SMOLLM2_135M, specs, config(max_model_len=160, kv_memory=least - 1))


@pytest.mark.parametrize(
    ("settings", "ranks", "told"),
    [
        (
            config(kv_memory=10_999),
            [loaded(0, block=10), loaded(1, block=1000)],
            "--kv-memory=10999: stage 1 rank 0 misses 1 B for the KV of one sequence of 160 tokens",
        ),
        (
            config(),
            [loaded(block=10**8)],
            "--max-model-len=160: stage 0 rank 0 misses 477 MiB for the KV of one sequence of 160 tokens",
        ),
        (config(kv_memory=2 * 10**9), [loaded()], "--kv-memory=2000000000: stage 0 rank 0 has 954 MiB free"),
    ],
)
def test_too_little_memory_is_told_with_what_is_missing(settings: object, ranks: list[RankLoaded], told: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        kv_blocks(ranks, settings, 160)  # type: ignore[arg-type]
    assert told in str(caught.value)


def test_more_ranks_give_more_than_their_share_of_kv() -> None:
    limit = MemoryLimit(bytes=80 * GIB, source="test")
    rows = scale_table(LLAMA_70B, config(device="cuda", dtype="bfloat16"), gpu("H100"), limit, Workload())
    shown = [(row.stages, row.tp, row.kv_tokens is not None) for row in rows]
    assert shown == [(1, 1, False), (2, 1, True), (4, 1, True), (1, 2, True), (1, 4, True)]
    for row in rows:
        if row.rank_growth is not None and row.rank_growth > 1:
            assert row.kv_growth is not None
            assert row.kv_growth > 10
    assert rows[0].note == "weights and one sequence do not fit"


def test_sizes_of_tensor_parallelism_that_do_not_divide_are_noted() -> None:
    limit = MemoryLimit(bytes=8 * GIB, source="test")
    rows = scale_table(SMOLLM2_135M, config(), gpu("L4"), limit, Workload())
    assert {row.note for row in rows if row.tp > 1} == {"TP may be 1, 3, 9"}


@pytest.mark.parametrize(
    ("text", "value"),
    [("4GiB", 4 * GIB), ("4Gi", 4 * GIB), ("500MB", 5 * 10**8), ("1.5G", 15 * 10**8), ("12", 12), (" 2 kib", 2048)],
)
def test_sizes_are_read(text: str, value: int) -> None:
    assert parse_bytes("--memory", text) == value


@pytest.mark.parametrize("text", ["", "GiB", "-1", "4 parsecs", "1e9"])
def test_other_words_are_not_sizes(text: str) -> None:
    with pytest.raises(ConfigurationError, match="write a size such as 4GiB"):
        parse_bytes("--memory", text)


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "0.98 KiB"),
        (28.5 * 1024, "28.5 KiB"),
        (131 * GIB, "131 GiB"),
        (5e15, "4547 TiB"),
    ],
)
def test_sizes_are_shown(count: float, shown: str) -> None:
    assert show_bytes(count) == shown


@pytest.mark.parametrize(("cores", "ranks", "threads"), [(8, 2, 4), (2, 3, 1), (7, 2, 3)])
def test_cores_are_divided(cores: int, ranks: int, threads: int) -> None:
    assert default_threads(cores, ranks) == threads
