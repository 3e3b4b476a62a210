"""`stageline bench` as a person runs it: one engine, two in turn, interrupted, and given wrong flags."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

from stageline_engine.bench.figures import FIGURE_NAMES
from stageline_engine.cli.bench import BenchOptions, bench_command, layered
from stageline_engine.cli.options import EngineOptions
from stageline_engine.core.errors import ConfigurationError
from support.tiny_models import tiny_model

ENV: Mapping[str, str] = {**os.environ, "OMP_NUM_THREADS": "1"}
FLAGS = ("--threads", "1", "--kv-memory", "8MiB", "--workloads", "W3")


@pytest.fixture(scope="module")
def llama() -> Path:
    return tiny_model("llama")


def command(model: Path | str, *flags: str) -> list[str]:
    return [sys.executable, "-m", "stageline_engine", "bench", str(model), *flags]


@pytest.fixture(scope="module")
def compared(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    """What two rounds of one against two stages print and write."""
    path = tmp_path_factory.mktemp("bench") / "found.json"
    flags = ("--rounds", "2", "--compare", "--stages 2", "--max-num-seqs 8", "--json", str(path))
    done = subprocess.run(command(llama, *FLAGS, *flags), env=ENV, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads(path.read_text())


def test_two_configurations_run_in_turn_and_never_together(compared: tuple[str, dict[str, Any]]) -> None:
    turns = compared[1]["turns"]
    assert [(turn["configuration"], turn["rounds"]) for turn in turns] == [
        ("A", [0]),
        ("B", [0]),
        ("A", [1]),
        ("B", [1]),
    ]
    assert all(turn["begin"] < turn["end"] for turn in turns)
    assert all(one["end"] <= following["begin"] for one, following in zip(turns, turns[1:], strict=False))


def test_each_configuration_runs_with_its_own_flags_and_the_common_ones(compared: tuple[str, dict[str, Any]]) -> None:
    a, b = (compared[1]["configurations"][label] for label in "AB")
    assert (a["flags"], a["engine"]["stages"], a["engine"]["layer_split"]) == ("--stages 2", 2, [3, 2])
    assert (b["flags"], b["engine"]["stages"], b["engine"]["threads"]) == ("--max-num-seqs 8", 1, 1)
    assert set(a["memory"]) == {"bench", "core", "fork parent", "stage 0 rank 0", "stage 1 rank 0"}
    assert set(b["memory"]) == {"bench", "core", "fork parent", "stage 0 rank 0"}
    assert min(a["memory"].values()) > 2**20


def test_the_file_has_every_documented_figure(compared: tuple[str, dict[str, Any]]) -> None:
    found = compared[1]
    for configuration in found["configurations"].values():
        result = configuration["workloads"]["W3"]
        assert set(result["median"]) == set(FIGURE_NAMES)
        assert len(result["rounds"]) == 2
        for one in result["rounds"]:
            counts = [
                one[name] for name in ("requests", "prompt_tokens", "output_tokens", "cached_tokens", "preemptions")
            ]
            assert counts == [1, 64, 128, 0, 0]
            assert all(one["figures"][name] > 0 for name in FIGURE_NAMES)
            assert len(one["stages"]) == configuration["engine"]["stages"]
            for stage in one["stages"]:
                # A prompt may be computed in several steps.
                assert stage["steps"] >= 128
                assert 0 < stage["busy"] <= 1
    for key in ("ratios", "ratios_min", "ratios_max"):
        assert set(found[key]["W3"]) == set(FIGURE_NAMES)
    throughputs = [one["throughput"] for one in found["ratios_rounds"]["W3"]]
    assert found["ratios_min"]["W3"]["throughput"] == min(throughputs)
    assert found["ratios_max"]["W3"]["throughput"] == max(throughputs)
    assert found["ratios"]["W3"]["throughput"] == pytest.approx(sum(throughputs) / 2)


def test_tables_fit_into_100_columns(compared: tuple[str, dict[str, Any]]) -> None:
    shown = compared[0]
    assert max(map(len, shown.splitlines())) <= 100
    for word in ("A ÷ B", "downstream", "stage 1 rank 0", "1 × (64 in, 128 out)", "M = "):
        assert word in shown


def test_interrupt_ends_the_engine_too(llama: Path) -> None:
    with subprocess.Popen(
        command(llama, *FLAGS, "--rounds", "1000"),
        env=ENV,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stderr is not None
        log = []
        for line in process.stderr:
            log.append(line)
            if "round 2: W3" in line:
                break
        assert process.poll() is None, "".join(log)
        family = psutil.Process(process.pid).children(recursive=True)
        assert len(family) >= 3
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        assert process.wait(15) == 130
    assert "Traceback" not in rest
    _, alive = psutil.wait_procs(family, timeout=5)
    assert not alive


@pytest.mark.parametrize(
    ("engine", "bench", "names"),
    [
        (EngineOptions(), BenchOptions(workloads="W9"), ("--workloads='W9'", "W1, W2, W3, W4")),
        (EngineOptions(), BenchOptions(rounds=0), ("--rounds=0", "at least 1")),
        (EngineOptions(), BenchOptions(json=Path("/nowhere/x.json")), ("--json=", "directory")),
        (EngineOptions(), BenchOptions(compare=("--stages 2", "--bogus 3")), ("--compare='--bogus 3'", "--bogus")),
        (EngineOptions(), BenchOptions(compare=("--stages 99", "")), ("--stages", "99")),
        (EngineOptions(max_model_len=64), BenchOptions(workloads="W1"), ("--max-model-len=64", "W1", "192 tokens")),
        (EngineOptions(), BenchOptions(api_key_file=Path("keys")), ("--api-key-file='keys'", "URL")),
    ],
)
def test_wrong_flags_are_named_before_anything_starts(
    llama: Path, engine: EngineOptions, bench: BenchOptions, names: tuple[str, ...]
) -> None:
    with pytest.raises(ConfigurationError) as refused:
        bench_command(str(llama), engine=engine, bench=bench)
    assert all(name in str(refused.value) for name in names), refused.value


def test_flags_of_a_configuration_lie_over_the_common_ones() -> None:
    common = EngineOptions(stages=3, threads=2, dtype="float32")
    assert layered(common, "") == common
    # A flag counts as given even when it names the parser's own default.
    assert layered(common, "--stages 1 --no-enable-prefix-caching") == EngineOptions(
        stages=1, threads=2, dtype="float32", enable_prefix_caching=False
    )


@pytest.mark.parametrize("flags", ["--stages", "--stages two", "another-model", "'", "--rounds 3"])
def test_text_that_is_no_engine_flag_is_refused(flags: str) -> None:
    with pytest.raises(ConfigurationError, match="--compare="):
        layered(EngineOptions(), flags)
