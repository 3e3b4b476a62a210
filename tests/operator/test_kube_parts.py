"""The parts of a control plane are obtained once, all or nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.kube import go_build, packages
from support.kube.parts import obtain


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache where making a part takes no time."""
    monkeypatch.setenv("STAGELINE_CACHE", str(tmp_path))
    monkeypatch.setattr(go_build, "build", lambda version, target: target.mkdir())
    monkeypatch.setattr(packages, "fetch_etcd", lambda target: target.mkdir())
    monkeypatch.setattr(packages, "fetch_clients", lambda target: target.mkdir())
    return tmp_path / "kube"


def test_what_a_killed_build_left_is_removed_by_the_next_one(cache: Path) -> None:
    left = cache / "9.9.9" / ".bin-of-a-killed-build"
    left.mkdir(parents=True)
    (left / "main.go").touch()
    obtain("9.9.9")
    assert (cache / "9.9.9" / "bin").is_dir() and not left.exists()
    other = cache / "9.9.9" / ".bin-of-a-later-one"
    other.mkdir()
    obtain("9.9.9")
    assert other.exists(), "who makes nothing has no lock, and touches nothing"
