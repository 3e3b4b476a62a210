"""What `stageline serve` refuses: one clear line, before a process is started and a person has waited long.

The deadline is a promise to a person who waits, so it is the one written here, with no margin.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import struct
from pathlib import Path

import pytest

from stageline_engine.sources.profile_cache import load_profile
from support.hub_server import running_hub
from support.serving import end, start_serving
from support.tiny_folder import CONFIG, write_folder
from support.tiny_models import tiny_model

FLAGS = ("--max-model-len", "256", "--kv-memory", "16MiB", "--threads", "1")
REFUSAL_SECONDS = 10


@pytest.fixture(scope="module")
def llama() -> Path:
    folder = tiny_model("llama")
    # The first look at a model imports torch; what a person is told later is what is tried here.
    load_profile(folder, progress=lambda line: None)
    return folder


def refusal(
    model: Path | str, *flags: str, code: int = 2, env: dict[str, str] | None = None, before: str = "starting"
) -> str:
    """The one line that says why, and nothing of Python's own; progress comes before it, but none of ``before``."""
    running = start_serving(model, *flags, env=env)
    try:
        assert running.wait_exit(REFUSAL_SECONDS) == code, running.log
    finally:
        end(running)
    lines = [line for line in running.lines if line.startswith("stageline: ")]
    assert len(lines) == 1, running.log
    assert running.lines[-1] == lines[0]
    assert "Traceback" not in running.log
    assert before not in running.log
    return lines[0]


@pytest.mark.parametrize(
    "flags",
    [
        ("--layer-split", "1,1", "--stages", "2"),
        ("--layer-split", "1,2,3", "--stages", "2"),
        ("--layer-split", "1;4", "--stages", "2"),
        ("--stages", "99"),
        ("--tp", "7"),
        ("--kv-memory", "1"),
        ("--kv-memory", "900TiB"),
        ("--max-model-len", "999999999"),
        ("--max-model-len", "1"),
        ("--dtype", "int3"),
        ("--api-key-file", "/nowhere"),
        ("--hang-timeout", "nan"),
        ("--start-timeout", "inf"),
        ("--drain-timeout", "nan"),
        ("--status-port", "65536"),
        ("--status-host", "127.0.0.1"),
    ],
    ids=" ".join,
)
def test_a_wrong_flag_is_named(llama: Path, flags: tuple[str, ...]) -> None:
    assert refusal(llama, *flags).startswith(f"stageline: {flags[0]}=")


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--stages", "2", "--layer-split", "1,1"), "--layer-split='1,1': it sums to 2: the model has 4 layers"),
        (("--stages", "5"), "--stages=5: the model has 4 layers"),
        (("--tp", "3"), "--tp=3: it does not divide the model (4 attention heads): possible are 1, 2, 4"),
        (("--stages", "2", "--tp", "1,3"), "--tp=3: it does not divide the model (4 attention heads): possible are"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_cut_that_cannot_be_is_told_before_a_new_model_is_profiled(
    tmp_path: Path, flags: tuple[str, ...], told: str
) -> None:
    folder = write_folder(tmp_path / "new")
    cache = {"STAGELINE_CACHE": str(tmp_path / "cache")}
    assert told in refusal(folder, *flags, env=cache, before="profiling")


def test_an_architecture_without_parity_is_told_before_a_new_model_is_profiled(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "new")
    (folder / "config.json").write_text(json.dumps(CONFIG | {"architectures": ["StrangeForCausalLM"]}))
    cache = {"STAGELINE_CACHE": str(tmp_path / "cache")}
    line = refusal(folder, env=cache, before="profiling")
    assert "architecture='StrangeForCausalLM': choose a model of Llama" in line


def test_a_port_in_use_is_told_before_the_long_steps(llama: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert f"--port='127.0.0.1:{port}'" in refusal(llama, "--port", port)


def test_a_truncated_weights_file_is_named(llama: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(llama, tmp_path / "broken")
    weights = max(folder.glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1000])
    assert f"{weights.name}': the file is damaged: it has" in refusal(folder, *FLAGS)


@pytest.mark.parametrize(("place", "told"), [(0, "does not begin with"), (20, "header is not valid JSON")])
def test_a_damaged_weights_file_is_named(llama: Path, tmp_path: Path, place: int, told: str) -> None:
    folder = shutil.copytree(llama, tmp_path / "broken")
    weights = max(folder.glob("*.safetensors"))
    content = bytearray(weights.read_bytes())
    content[place : place + 8] = b"\xff" * 8
    weights.write_bytes(content)
    line = refusal(folder, *FLAGS)
    assert weights.name in line
    assert told in line


def test_a_damaged_chat_template_is_told(llama: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(llama, tmp_path / "broken")
    (folder / "chat_template.jinja").write_text("{% if %}")
    assert "chat template" in refusal(folder, *FLAGS)


def test_a_model_that_cannot_fit_is_told_before_it_is_looked_into(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "large")
    elements = 10**12
    header = json.dumps({"w": {"dtype": "F16", "shape": [elements], "data_offsets": [0, 2 * elements]}}).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + 2 * elements)  # a hole: it takes no room
    cache = {"STAGELINE_CACHE": str(tmp_path / "cache")}
    line = refusal(folder, "--device", "cpu", env=cache)
    assert "3.64 TiB of weights in float32" in line
    assert "take a machine with more memory" in line


def test_a_revision_and_a_repository_that_are_not_there_are_named(tmp_path: Path) -> None:
    with running_hub("org/name", {"config.json": b"{}"}) as hub:
        env = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path)}
        assert "has no revision 'nothing'" in refusal("hf://org/name@nothing", env=env)
        assert "has no repository org/other" in refusal("hf://org/other", env=env)
    assert "does not answer" in refusal("hf://org/name", env=env)


def gpus(folder: Path, *free_mebibytes: int) -> dict[str, str]:
    """An environment with so many GPUs, as the driver's command would list them."""
    rows = "".join(f"echo GPU-{index}, {free}\n" for index, free in enumerate(free_mebibytes))
    (folder / "nvidia-smi").write_text(f"#!/bin/sh\n{rows}")
    (folder / "nvidia-smi").chmod(0o755)
    return {"PATH": f"{folder}:{os.environ['PATH']}"}


@pytest.mark.parametrize(
    ("free", "visible", "flags", "told"),
    [
        ((), None, (), "1 rank needs a GPU, and this machine has 0"),
        ((80_000,), None, ("--stages", "2"), "2 ranks need a GPU each, and this machine has 1"),
        ((80_000,) * 4, "0,2", ("--stages", "3"), "3 ranks need a GPU each, and this machine has 2"),
        ((80_000,) * 4, "GPU-3,1,9,2", ("--tp", "3"), "this machine has 2"),
        ((80_000,) * 4, "", (), "this machine has 0"),
        ((1, 1), None, ("--stages", "2", "--kv-memory", "16MiB"), "a rank has 1.00 MiB (the emptiest of 2 GPUs)"),
    ],
)
def test_what_gpus_cannot_do_is_told_before_anything_is_started(
    llama: Path, tmp_path: Path, free: tuple[int, ...], visible: str | None, flags: tuple[str, ...], told: str
) -> None:
    env = gpus(tmp_path, *free) | ({} if visible is None else {"CUDA_VISIBLE_DEVICES": visible})
    assert told in refusal(llama, "--device", "cuda", *flags, env=env)


def test_a_cache_that_cannot_be_written_is_told(llama: Path, tmp_path: Path) -> None:
    (file := tmp_path / "file").write_text("not a folder")
    line = refusal(llama, *FLAGS, code=1, env={"STAGELINE_CACHE": str(file / "cache")})
    assert re.search(f"^stageline: .*{file}", line)
