"""Models of a hub: found by small files and the headers of weights, offline too, and refused in one clear line."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from stageline_engine.core.errors import ModelSourceError
from stageline_engine.sources.integrity import read_header
from stageline_engine.sources.resolve import resolve
from support.hub_server import COMMIT, Hub, our_hub
from support.tiny_folder import write_folder

LARGE = 24_000_000
"""Bytes: more than two of the pieces of 10 MB that huggingface_hub writes, so that half of it is worth keeping."""


@pytest.fixture
def files(tmp_path: Path) -> dict[str, bytes]:
    folder = write_folder(tmp_path / "original")
    content = {path.name: path.read_bytes() for path in folder.iterdir()}
    extra = {
        "README.md": b"x",
        "pytorch_model.bin": b"x",
        "original/params.json": b"{}",
        "consolidated.safetensors": b"x",
    }
    return content | extra


@pytest.fixture
def hub(files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with our_hub(files, tmp_path, monkeypatch) as running:
        yield running


def test_only_small_files_and_headers_are_fetched(hub: Hub) -> None:
    said: list[str] = []
    found = resolve("hf://org/tiny@main", progress=said.append)
    assert (found.name, found.pinned) == ("tiny", f"hf://org/tiny@{COMMIT}")
    assert {path.name for path in found.path.iterdir() if path.suffix != ".present"} == {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    }
    for name in ("config.json", "tokenizer.json"):
        assert (found.path / name).read_bytes() == hub.files[name]
    assert (found.path / "model.safetensors").stat().st_size == len(hub.files["model.safetensors"])
    assert hub.sent_weights() == read_header(found.path / "model.safetensors").length
    assert any("fetching 2 small files" in line for line in said)


def test_what_is_fetched_is_the_commit_that_was_listed(hub: Hub) -> None:
    resolve("hf://org/tiny@main", progress=print)
    fetched = [line for name in ("config.json", "model.safetensors") for line in hub.served(name)]
    assert len(fetched) >= 2
    assert all(f"/resolve/{COMMIT}/" in line for line in fetched), fetched


def test_planning_fetches_no_weights(hub: Hub) -> None:
    found = resolve("hf://org/tiny", progress=print, with_weights=False)
    assert os.listdir(found.path) == ["config.json"]
    assert hub.served("model.safetensors") == []


def test_a_broken_download_goes_on_where_it_stopped(hub: Hub) -> None:
    hub.files["tokenizer.json"] = b'"' + b"x" * LARGE + b'"'
    hub.cut_once = "tokenizer.json"
    found = resolve("hf://org/tiny", progress=print)
    assert (found.path / "tokenizer.json").read_bytes() == hub.files["tokenizer.json"]
    first, second = hub.served("tokenizer.json")
    assert "bytes=" not in first
    assert int(second.partition("bytes=")[2].rstrip("-")) > 0


def test_a_fetched_model_needs_no_hub(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched = resolve("hf://org/tiny", progress=print)
    hub.forget()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    said: list[str] = []
    assert resolve("hf://org/tiny", progress=said.append) == fetched
    assert hub.requests == []
    assert any("using the local copy" in line for line in said)


def test_a_fetched_model_survives_a_hub_that_is_gone(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched = resolve("hf://org/tiny", progress=print)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{unused.getsockname()[1]}")
        assert resolve("hf://org/tiny", progress=print) == fetched


def test_a_silent_hub_and_no_local_copy_is_an_error(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(ModelSourceError, match="does not answer, and there is no complete local copy"):
            resolve("hf://org/tiny", progress=print)


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ("hf://org/tiny@no-such-tag", "no revision 'no-such-tag'"),
        ("hf://org/other", "has no repository org/other"),
    ],
)
def test_wrong_names_are_told(hub: Hub, model: str, told: str) -> None:
    with pytest.raises(ModelSourceError) as caught:
        resolve(model, progress=print)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_commit_that_is_here_is_not_asked_for(hub: Hub) -> None:
    fetched = resolve("hf://org/tiny", progress=print)
    hub.forget()
    assert resolve(fetched.pinned, progress=print) == fetched
    assert hub.requests == []


def test_a_name_that_means_a_new_commit_brings_its_files(hub: Hub) -> None:
    first = resolve("hf://org/tiny", progress=print)
    config = json.loads(hub.files["config.json"]) | {"vocab_size": 99}
    hub.push("f" * 40, hub.files | {"config.json": json.dumps(config).encode()})
    second = resolve("hf://org/tiny", progress=print)
    assert second.pinned == f"hf://org/tiny@{'f' * 40}"
    assert json.loads((second.path / "config.json").read_text())["vocab_size"] == 99
    assert resolve(first.pinned, progress=print) == first


@pytest.fixture
def snapshot(hub: Hub) -> Path:
    """What huggingface_hub itself keeps of the model when somebody has fetched all of it."""
    code = "from huggingface_hub import snapshot_download; print(snapshot_download('org/tiny'))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    hub.forget()
    return Path(shown.stdout.strip())


@pytest.mark.parametrize("model", ["hf://org/tiny", f"hf://org/tiny@{COMMIT}"])
def test_a_whole_snapshot_in_the_hubs_own_cache_is_used_as_it_is(hub: Hub, snapshot: Path, model: str) -> None:
    assert resolve(model, progress=print).path == snapshot
    assert not hub.sent


def test_a_whole_snapshot_needs_no_hub(hub: Hub, snapshot: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert resolve("hf://org/tiny", progress=print).path == snapshot
    assert hub.requests == []


def test_a_snapshot_that_lacks_weights_is_not_taken_for_whole(hub: Hub, snapshot: Path) -> None:
    (snapshot / "model.safetensors").unlink()
    found = resolve("hf://org/tiny", progress=print)
    assert found.path != snapshot
    assert hub.sent_weights() == read_header(found.path / "model.safetensors").length


def test_a_commit_that_is_not_here_cannot_be_had_offline(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    resolve("hf://org/tiny", progress=print)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelSourceError, match="HF_HUB_OFFLINE is set, and there is no complete local copy"):
        resolve(f"hf://org/tiny@{'f' * 40}", progress=print)


@pytest.mark.parametrize("status", [401, 403])
def test_a_token_that_is_needed_is_told(hub: Hub, status: int) -> None:
    hub.statuses["model.safetensors"] = [status]
    with pytest.raises(ModelSourceError, match=f"refuses model.safetensors .status {status}.: set HF_TOKEN"):
        resolve("hf://org/tiny", progress=print)


def test_a_repository_without_safetensors_is_refused_before_fetching(hub: Hub) -> None:
    del hub.files["model.safetensors"], hub.files["consolidated.safetensors"]
    with pytest.raises(ModelSourceError, match="no safetensors"):
        resolve("hf://org/tiny", progress=print)
    assert hub.served("config.json") == []


def test_a_damaged_file_of_the_hub_is_found(hub: Hub) -> None:
    hub.files["model.safetensors"] = hub.files["model.safetensors"][:-7]
    with pytest.raises(ModelSourceError, match=r"model\.safetensors.*damaged"):
        resolve("hf://org/tiny", progress=print)
