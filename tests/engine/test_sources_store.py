"""Prepared folders appear whole or not at all, are made once, and survive makers that are killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from stageline_engine.sources import store

MAKER = """
import os, sys
from pathlib import Path
from stageline_engine.sources import store

def make(folder, lock):
    (folder / "half").write_text("x")
    print("making", flush=True)
    sys.stdin.readline()
    (folder / "whole").write_text(str(os.getpid()))

print(store.prepared("model", make, lambda line: print(line, flush=True)), flush=True)
"""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STAGELINE_CACHE", str(tmp_path))
    return tmp_path


def maker() -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", MAKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def say(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_two_makers_at_once_make_it_once(cache: Path) -> None:
    with maker() as first:
        assert say(first) == "making"
        with maker() as second:
            assert say(second) == "waiting for another process that prepares model"
            assert not (cache / "models" / "model").exists()
            first.communicate("go\n", timeout=60)
            assert say(second) == str(cache / "models" / "model")
    assert (cache / "models" / "model" / "whole").read_text() == str(first.pid)


def test_a_killed_maker_leaves_no_model_and_the_next_one_starts_afresh(cache: Path) -> None:
    with maker() as first:
        assert say(first) == "making"
        first.send_signal(signal.SIGKILL)
    assert not (cache / "models" / "model").exists()

    def make(folder: Path, lock: int) -> None:
        assert list(folder.iterdir()) == []
        (folder / "whole").touch()

    assert store.prepared("model", make, print) == cache / "models" / "model"
    assert os.listdir(cache / "models") == ["model"]


def test_the_rests_of_other_killed_makers_are_cleared_away(cache: Path) -> None:
    with maker() as first:
        assert say(first) == "making"
        first.send_signal(signal.SIGKILL)
    store.prepared("other", lambda folder, lock: None, print)
    assert os.listdir(cache / "models") == ["other"]


def test_what_another_living_maker_works_on_is_left_alone(cache: Path) -> None:
    with maker() as first:
        assert say(first) == "making"
        store.prepared("other", lambda folder, lock: None, print)
        first.communicate("go\n", timeout=60)
    assert sorted(os.listdir(cache / "models")) == ["model", "other"]


def test_a_maker_that_raises_leaves_nothing(cache: Path) -> None:
    def make(folder: Path, lock: int) -> None:
        (folder / "half").touch()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.prepared("model", make, print)
    assert os.listdir(cache / "models") == []


def test_a_prepared_folder_is_not_made_again(cache: Path) -> None:
    def refuse(folder: Path, lock: int) -> None:
        raise AssertionError

    made = store.prepared("model", lambda folder, lock: None, print)
    assert store.prepared("model", refuse, print) == made


def test_the_cache_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("STAGELINE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert store.root() == tmp_path / "xdg" / "stageline"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert store.root() == tmp_path / "home" / ".cache" / "stageline"
