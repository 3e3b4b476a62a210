"""`stageline plan`, as a person types it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from stageline_engine.cli.flags import field_texts
from stageline_engine.core.config import CacheConfig, EngineConfig, ModelConfig, ParallelConfig, SchedulerConfig
from support.tiny_folder import CONFIG, write_folder

LLAMA_70B = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
    "dtype": "bfloat16",
    "tie_word_embeddings": False,
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def use_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAGELINE_CACHE", str(cache))
    monkeypatch.setenv("COLUMNS", "100")


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "Llama-70B"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(LLAMA_70B))
    return folder


def plan(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "stageline_engine", "plan", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def plan_json(*arguments: str | Path) -> dict[str, object]:
    done = plan(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    content: dict[str, object] = json.loads(done.stdout)
    return content


def test_a_large_model_is_planned_from_its_config_alone(large: Path) -> None:
    content = plan_json(large, "--stages", "2", "--tp", "8", "--gpus", "H100")
    assert content["model"] == "Llama-70B"
    assert content["dtype"] == "bfloat16"
    stages, split = content["stages"], content["layer_split"]
    assert isinstance(stages, list)
    assert isinstance(split, list)
    assert sum(split) == 80
    # 70.6 billion parameters of 2 bytes over 16 ranks; the embedding is whole on each of the first stage.
    held = sum(stage["weight_bytes_per_rank"] * stage["tp"] for stage in stages)
    assert held == pytest.approx(2 * 70.55e9 + 7 * 2 * 128256 * 8192, rel=0.01)
    assert stages[0]["kv_bytes_per_token_per_rank"] == 2 * 128 * 2 * (stages[0]["end"] - stages[0]["start"])


def test_the_keys_of_the_json_are_those_that_are_documented(large: Path) -> None:
    content = plan_json(large, "--stages", "4", "--gpus", "H100")
    documented = (Path(__file__).parents[2] / "docs" / "planning.md").read_text()

    def keys(value: object) -> set[str]:
        if isinstance(value, dict):
            return set(value) | {key for inner in value.values() for key in keys(inner)}
        return {key for inner in value for key in keys(inner)} if isinstance(value, list) else set()

    assert [key for key in sorted(keys(content)) if f"`{key}`" not in documented] == []


def test_the_tables_fit_100_columns(large: Path) -> None:
    done = plan(large, "--stages", "4", "--gpus", "H100")
    assert done.returncode == 0, done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 100
    assert "…" not in done.stdout
    for word in ("Stages", "Prediction", "More ranks", "bubble", "layer split", "assumed"):
        assert word in done.stdout


def test_progress_does_not_mix_with_the_result(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model")
    (folder / "config.json").write_text(json.dumps(CONFIG | {"num_hidden_layers": 7}))
    done = plan(folder, "--json")
    assert "profiling the model" in done.stderr
    assert json.loads(done.stdout)["num_layers"] == 7


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--stages", "81"], "--stages=81: the model has 80 layers"),
        (["--tp", "3"], "--tp=3: it does not divide the model (64 attention heads): possible are 1, 2, 4, 8"),
        (["--tp", "2,x"], "--tp='2,x': write whole numbers"),
        (["--stages", "2", "--tp", "1,2,4"], "--tp='1,2,4': give one number, or one for each of the 2 stages"),
        (["--stages", "2", "--layer-split", "40,41"], "--layer-split='40,41': it sums to 81"),
        (["--gpus", "H100"], "stage 0 misses 61.9 GiB per rank (weights 131 GiB"),
        (["--stages", "2", "--memory", "10 parsecs"], "--memory='10 parsecs': write a size"),
        (["--gpus", "H9000"], "--gpus='H9000': give one of"),
        (["--gpus", "H100", "--threads", "2"], "--threads=2: with --gpus it has no effect: leave it out"),
        (["--workload", "much"], "--workload='much': write prompt and output tokens"),
        (["--max-model-len", "9000"], "--max-model-len=9000: the model was made for sequences of at most 8192"),
        (["--dtype", "int4"], "--dtype='int4': give one of auto, float32"),
    ],
)
def test_what_cannot_work_is_one_line_and_exit_code_2(large: Path, arguments: list[str], told: str) -> None:
    done = plan(large, *arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    lines = [line for line in done.stderr.splitlines() if "profiling" not in line]
    assert len(lines) == 1
    assert told in lines[0]


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--tp", "3"), "--tp=3: it does not divide the model (4 attention heads): possible are 1, 2, 4"),
        (("--stages", "6"), "--stages=6: the model has 5 layers"),
        (("--stages", "2", "--layer-split", "1,1"), "--layer-split='1,1': it sums to 2: the model has 5 layers"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_cut_that_cannot_be_is_told_before_a_new_model_is_profiled(
    tmp_path: Path, flags: tuple[str, ...], told: str
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG | {"num_hidden_layers": 5}))
    done = plan(tmp_path, *flags)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert told in line


def test_every_setting_has_a_text_for_help() -> None:
    for struct in (ModelConfig, ParallelConfig, CacheConfig, SchedulerConfig):
        assert set(field_texts(struct)) == set(struct.__struct_fields__)
    assert {"start_timeout", "hang_timeout", "log_level"} <= set(field_texts(EngineConfig))


def test_help_says_defaults_and_units() -> None:
    done = plan("--help")
    assert done.returncode == 0
    shown = " ".join(done.stdout.replace("│", " ").split())
    for text in (
        "Tokens per KV block. [default: 16]",
        "IN:OUT; default: 64:128",
        "default: balanced by",
    ):
        assert text in shown
