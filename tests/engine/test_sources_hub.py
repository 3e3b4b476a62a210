"""Models of a hub: fetched once, resumed, used offline, and refused with one clear line."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from stageline_engine.core.errors import ModelSourceError
from stageline_engine.sources.resolve import resolve
from support.hub_server import COMMIT, Hub, running_hub
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
    with running_hub("org/tiny", files) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        monkeypatch.setenv("STAGELINE_CACHE", str(tmp_path / "cache"))
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        monkeypatch.delenv("HF_HUB_CACHE", raising=False)
        yield running


def test_only_what_the_model_needs_is_fetched(hub: Hub) -> None:
    said: list[str] = []
    found = resolve("hf://org/tiny@main", progress=said.append)
    assert found.name == "tiny"
    assert sorted(os.listdir(found.path)) == ["config.json", "model.safetensors", "tokenizer.json"]
    for name in os.listdir(found.path):
        assert (found.path / name).read_bytes() == hub.files[name]
    assert any("fetching 3 files" in line for line in said)


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
    hub.requests.clear()
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
        with pytest.raises(ModelSourceError, match="does not answer, and there is no local copy"):
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


def test_a_repository_without_safetensors_is_refused_before_fetching(hub: Hub) -> None:
    del hub.files["model.safetensors"], hub.files["consolidated.safetensors"]
    with pytest.raises(ModelSourceError, match="no safetensors"):
        resolve("hf://org/tiny", progress=print)
    assert hub.served("config.json") == []


def test_a_damaged_file_of_the_hub_is_found(hub: Hub) -> None:
    hub.files["model.safetensors"] = hub.files["model.safetensors"][:-7]
    with pytest.raises(ModelSourceError, match=r"model\.safetensors.*damaged"):
        resolve("hf://org/tiny", progress=print)
