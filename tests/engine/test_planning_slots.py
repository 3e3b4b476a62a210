"""How many micro-batches are in flight, and what rounds of decode are predicted to give."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from stageline_engine.core.config import EngineConfig
from stageline_engine.core.errors import ConfigurationError
from stageline_engine.planning.devices import Device, cpu, gpu
from stageline_engine.planning.memory import MemoryLimit
from stageline_engine.planning.report import Plan, make_plan
from stageline_engine.planning.slots import best_round, decode_round, predicted_slots
from stageline_engine.planning.split import choose_split, stage_specs
from stageline_engine.planning.workload import Workload, parse_workload
from support.profiles import LLAMA_70B, SMOLLM2_135M, config

GIB = 2**30


def stages(count: int, *, fixed: float = 1.0, per_row: float = 0.02) -> Callable[[float], tuple[float, ...]]:
    return lambda rows: (fixed + per_row * rows,) * count


@pytest.mark.parametrize("micro_batches", [1, 2, 3, 4, 5, 6, 8])
def test_a_round_lasts_as_long_as_its_bottleneck(micro_batches: int) -> None:
    # Four stages of 1 + 0.02 × rows, 64 sequences, 0.6 of latency: stage time and loop change places at four.
    found = decode_round(64, micro_batches, stages(4), lambda rows: 0.6)
    rows = 64 / micro_batches
    own = 1 + 0.02 * rows
    assert found.seconds == pytest.approx(max(micro_batches * own, 4 * own + 0.6))
    assert found.tokens_per_second == pytest.approx(64 / found.seconds)
    assert found.bubble == pytest.approx(1 - micro_batches * own / found.seconds)


@pytest.mark.parametrize(
    ("per_row", "latency", "expected"),
    [
        (0.02, 0.0, 4),  # nothing to hide: one for each stage
        (1.0, 0.6, 4),  # latency too short to be worth another reading of the weights
        (1.0, 40.0, 9),  # much latency and dear rows: more than stages
    ],
)
def test_latency_is_hidden_where_that_is_worth_it(per_row: float, latency: float, expected: int) -> None:
    found = best_round(64, 4, stages(4, per_row=per_row), lambda rows: latency)
    assert found.micro_batches == expected


def test_one_stage_has_nothing_to_overlap() -> None:
    assert best_round(64, 1, stages(1), lambda rows: 0.0).micro_batches == 1


def test_there_are_no_more_micro_batches_than_sequences() -> None:
    assert best_round(1, 4, stages(4), lambda rows: 0.0).micro_batches == 1
    assert best_round(3, 4, stages(4, per_row=10.0), lambda rows: 0.0).micro_batches == 3


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_the_demo_model_gets_a_micro_batch_for_each_stage(count: int) -> None:
    settings = config(stages=count)
    specs = stage_specs(SMOLLM2_135M, settings.parallel, choose_split(SMOLLM2_135M, settings))
    assert predicted_slots(SMOLLM2_135M, specs, settings) == count


def plan(settings: EngineConfig, device: Device, memory: int = 80 * GIB) -> Plan:
    limit = MemoryLimit(bytes=memory, source="test")
    profile = SMOLLM2_135M if device.memory_bytes is None else LLAMA_70B
    return make_plan("model", profile, settings, device, limit, Workload())


def test_a_plan_of_the_demo_model_is_balanced() -> None:
    found = plan(config(stages=2), cpu(1))
    assert found.layer_split == (17, 13)
    assert found.decode.bubble < 0.08
    # 17 layers against 13: what is balanced over both is not in prefill alone.
    assert found.prefill.bubble == pytest.approx(1 - 15 / 17, abs=0.01)
    assert found.prefill.bottleneck_stage == 0
    assert found.kv.limiting_stage == 0
    assert found.kv.capacity_tokens == found.stages[0].kv_capacity_tokens == found.kv.blocks * 16


def test_an_even_split_of_the_demo_model_is_slow_at_its_end() -> None:
    even = plan(config(stages=2, layer_split=(15, 15)), cpu(1))
    best = plan(config(stages=2, layer_split=(18, 12)), cpu(1))
    assert even.decode.bottleneck_stage == 1
    assert best.decode.tokens_per_second / even.decode.tokens_per_second == pytest.approx(1.18, abs=0.05)


def test_more_stages_and_more_ranks_are_faster() -> None:
    slow = plan(config(stages=4, device="cuda", dtype="bfloat16"), gpu("H100"))
    fast = plan(config(stages=4, tp=(2,), device="cuda", dtype="bfloat16"), gpu("H100"))
    assert fast.decode.tokens_per_second > 1.5 * slow.decode.tokens_per_second
    assert fast.stages[0].weight_bytes_per_rank < slow.stages[0].weight_bytes_per_rank


def test_a_fixed_number_of_micro_batches_is_kept() -> None:
    assert plan(config(stages=2, micro_batches=5), cpu(1)).decode.micro_batches == 5


@pytest.mark.parametrize(("name", "found"), [("h100", "H100"), ("A100", "A100-80GB"), ("l4", "L4")])
def test_gpus_are_known_by_name(name: str, found: str) -> None:
    assert gpu(name).name == found


def test_an_unknown_gpu_is_told_the_known_ones() -> None:
    with pytest.raises(ConfigurationError, match=r"--gpus='H9000': give one of B200, H200, H100"):
        gpu("H9000")


@pytest.mark.parametrize("text", ["", "64", "64:", "a:b", "0:0", "-1:5"])
def test_other_words_are_not_workloads(text: str) -> None:
    with pytest.raises(ConfigurationError, match="--workload"):
        parse_workload(text)
