"""What is decided, and refused, before any process of the engine is started."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
import torch

from stageline_engine.client import launch
from stageline_engine.core.config import CacheConfig, EngineConfig, ModelConfig, ParallelConfig
from stageline_engine.core.errors import ConfigurationError
from stageline_engine.engine.setup import rank_settings
from stageline_engine.models.stage_model import load_stage_model
from stageline_engine.models.tensor_group import SoloGroup
from stageline_engine.planning.memory import stage_weight_bytes
from support.tiny_models import FAMILIES, tiny_model


def two_uneven_stages() -> EngineConfig:
    return EngineConfig(
        model=ModelConfig(model=str(tiny_model("llama")), max_model_len=32),
        parallel=ParallelConfig(stages=2, layer_split=(1, 4), threads=1, device="cpu"),
    )


def test_too_little_free_memory_is_told_for_each_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "free_machine_bytes", lambda: 300_000)
    with pytest.raises(ConfigurationError, match=r"stage 0 misses .*; stage 1 misses .* divided by 2 ranks"):
        launch.prepare(two_uneven_stages(), lambda line: None)


def test_uneven_stages_share_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    setup = launch.prepare(two_uneven_stages(), lambda line: None).setup
    weights = [stage_weight_bytes(setup.profile, spec, 4) for spec in setup.specs]
    free = 2 * max(weights) - 1
    assert sum(weights) < free
    monkeypatch.setattr(launch, "free_machine_bytes", lambda: free)
    assert launch.prepare(two_uneven_stages(), lambda line: None).setup.specs == setup.specs


def refused(folder: Path, tp: int) -> bool:
    """Whether config.json is enough to refuse so many ranks."""
    settings = EngineConfig(model=ModelConfig(model=str(folder)), parallel=ParallelConfig(tp=(tp,)))
    try:
        launch.check_shape(folder, settings)
    except ConfigurationError:
        return True
    return False


@pytest.mark.parametrize("family", FAMILIES)
def test_config_json_tells_the_same_rank_counts_as_a_profile(family: str) -> None:
    folder, possible = tiny_model(family), FAMILIES[family].possible_tp
    heads = FAMILIES[family].settings["num_attention_heads"]
    assert [tp for tp in range(1, heads + 2) if not refused(folder, tp)] == list(possible)


def test_config_json_refuses_no_rank_count_of_which_it_says_nothing(tmp_path: Path) -> None:
    config = json.loads((tiny_model("mistral") / "config.json").read_text())

    def written(**changes: object) -> Path:
        (tmp_path / "config.json").write_text(json.dumps(config | changes))
        return tmp_path

    assert refused(written(), 3)
    assert not refused(written(num_attention_heads=None), 3)
    assert not refused(written(architectures=None), 3)
    assert not refused(written(num_key_value_heads=None), 4)


def test_each_rank_gets_a_gpu_after_those_of_earlier_stages() -> None:
    setup = launch.prepare(two_uneven_stages(), lambda line: None).setup
    specs = tuple(msgspec.structs.replace(spec, tp=2) for spec in setup.specs)
    settings = rank_settings(msgspec.structs.replace(setup, specs=specs))
    assert [stage.first_device for stage in settings] == [0, 2]


def test_more_ranks_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    setup = launch.prepare(two_uneven_stages(), lambda line: None).setup
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    second = msgspec.structs.replace(rank_settings(setup)[1], device="cuda")
    with pytest.raises(ConfigurationError, match="stage 1 rank 0 needs a GPU of its own, number 2"):
        load_stage_model(second, 0, SoloGroup())


def test_a_kv_memory_beyond_the_machine_is_refused_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "free_machine_bytes", lambda: 8 << 20)
    settings = msgspec.structs.replace(two_uneven_stages(), cache=CacheConfig(kv_memory=8 << 20))
    with pytest.raises(ConfigurationError, match=r"--kv-memory='8388608': stage 0 misses .*, --kv-memory 8.00 MiB"):
        launch.prepare(settings, lambda line: None)
