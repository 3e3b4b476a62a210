"""What is refused before any process of the engine is started."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
import torch

from stageline_engine.client import launch
from stageline_engine.core.config import EngineConfig, ModelConfig, ParallelConfig
from stageline_engine.core.errors import ConfigurationError
from stageline_engine.engine.setup import rank_settings
from stageline_engine.models.stage_model import load_stage_model
from stageline_engine.models.tensor_group import SoloGroup
from stageline_engine.planning.memory import stage_weight_bytes
from support.tiny_folder import CONFIG, write_folder
from support.tiny_models import tiny_model

LARGE = CONFIG | {"hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 800, "num_attention_heads": 64}


def test_a_model_that_is_too_large_for_the_machine_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "large")
    (folder / "config.json").write_text(json.dumps(LARGE))
    command = [sys.executable, "-m", "stageline_engine", "serve", str(folder), "--device", "cpu", "--port", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if "profiling" not in line]
    assert "stage 0 misses 2." in line
    assert "TiB per rank" in line
    assert "take a machine with more memory" in line


def two_uneven_stages() -> EngineConfig:
    return EngineConfig(
        model=ModelConfig(model=str(tiny_model("llama")), max_model_len=32),
        parallel=ParallelConfig(stages=2, layer_split=(1, 4), threads=1, device="cpu"),
    )


def test_too_little_free_memory_is_told_for_each_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "free_machine_bytes", lambda: 100_000)
    with pytest.raises(ConfigurationError, match=r"stage 0 misses .*; stage 1 misses .* divided by 2 ranks"):
        launch.prepare(two_uneven_stages(), lambda line: None)


def test_uneven_stages_share_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    setup = launch.prepare(two_uneven_stages(), lambda line: None).setup
    weights = [stage_weight_bytes(setup.profile, spec, 4) for spec in setup.specs]
    free = 2 * max(weights) - 1
    assert sum(weights) < free
    monkeypatch.setattr(launch, "free_machine_bytes", lambda: free)
    assert launch.prepare(two_uneven_stages(), lambda line: None).setup.specs == setup.specs


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
