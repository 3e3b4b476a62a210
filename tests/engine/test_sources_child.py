"""Work in a child process: its errors arrive as ours, and it never outlives its parent."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from stageline_engine.core.errors import ModelSourceError, UnsupportedModelError
from stageline_engine.sources.child import Child
from stageline_engine.sources.profile_cache import load_profile
from stageline_engine.sources.resolve import resolve
from support.tiny_folder import CONFIG, write_folder

MODULE = """
import os, sys
from stageline_engine.core.errors import ModelSourceError
from stageline_engine.sources import child

def work(arguments, report):
    kind = arguments[0]
    if kind == "wait":
        report.progress(str(os.getpid()))
        os.kill(os.getpid(), 19)
    if kind == "refuse":
        raise ModelSourceError("model", "x", "because")
    if kind == "break":
        raise RuntimeError("some trouble")
    if kind == "die":
        os.kill(os.getpid(), 9)
    print("a library prints")
    report.progress("one")
    report.progress("two")
    return {"n": int(kind)}

sys.exit(child.main(work))
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "some_child.py").write_text(MODULE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return "some_child"


def test_progress_and_result_arrive(module: str) -> None:
    said: list[str] = []
    assert Child(module, ["7"], dict[str, int], said.append, value="v").to_end() == {"n": 7}
    assert said == ["one", "two"]


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("refuse", "model='x': because"),
        ("break", "model='v': its preparation ended with exit code 1: RuntimeError: some trouble"),
        ("die", "model='v': its preparation ended with exit code -9: it was killed, perhaps for lack of memory"),
    ],
)
def test_its_end_is_told_in_one_line(module: str, kind: str, told: str) -> None:
    with pytest.raises(ModelSourceError) as caught:
        Child(module, [kind], None, print, value="v").to_end()
    assert str(caught.value) == told


def test_it_ends_with_a_parent_that_is_killed(module: str) -> None:
    code = (
        "from stageline_engine.sources.child import Child\n"
        "Child('some_child', ['wait'], None, lambda line: print(line, flush=True), value='v').to_end()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        worker = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    worker.resume()
    psutil.wait_procs([worker], timeout=60)
    assert not worker.is_running()


def test_a_profile_is_computed_once_and_follows_the_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAGELINE_CACHE", str(tmp_path / "cache"))
    folder = write_folder(tmp_path / "model")
    said: list[str] = []
    profile = load_profile(folder, progress=said.append)
    assert len(said) == 1
    assert (len(profile.layers), profile.vocab_size, profile.checkpoint_dtype) == (4, 128, "bfloat16")
    assert load_profile(folder, progress=said.append) == profile
    assert len(said) == 1
    (kept,) = (tmp_path / "cache" / "profiles").iterdir()
    kept.write_text("damaged")
    (folder / "config.json").write_text(json.dumps(CONFIG | {"num_hidden_layers": 3}))
    assert len(load_profile(folder, progress=said.append).layers) == 3


def test_an_architecture_without_a_parity_test_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAGELINE_CACHE", str(tmp_path / "cache"))
    folder = write_folder(tmp_path / "model")
    (folder / "config.json").write_text(json.dumps(CONFIG | {"architectures": ["XForCausalLM"], "model_type": "bloom"}))
    with pytest.raises(UnsupportedModelError):
        load_profile(folder, progress=print)


def test_a_folder_with_another_tokenizer_gets_a_tokenizer_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAGELINE_CACHE", str(tmp_path / "cache"))
    folder = write_folder(tmp_path / "model")
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.json").write_text(
        json.dumps({letter: index for index, letter in enumerate("abcdefgh")} | {"ab": 8})
    )
    (folder / "merges.txt").write_text("#version: 0.2\na b\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "GPT2Tokenizer", "unk_token": "a"}))
    said: list[str] = []
    found = resolve(str(folder), progress=said.append)
    assert found.name == "model"
    assert found.path != folder
    assert "tokenizer.json" in os.listdir(found.path)
    assert (found.path / "model.safetensors").resolve() == folder / "model.safetensors"
    assert json.loads((found.path / "config.json").read_text()) == CONFIG
    assert resolve(str(folder), progress=lambda line: pytest.fail(line)) == found
