"""How much memory is free for KV: limits of control groups are seen, whatever their version."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from stageline_engine.planning.machine import cgroup_free_bytes
from stageline_engine.stage.memory import free_bytes

V2 = ("memory.max", "memory.current", "inactive_file")
V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def _group(folder: Path, names: tuple[str, str, str], limit: str, used: int, cache: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 1\n{names[2]} {cache}\n")


@pytest.mark.parametrize(
    ("names", "root", "line"),
    [(V2, "", "0::/pod/container\n"), (V1, "memory", "5:cpu:/pod\n4:memory:/pod/container\n")],
)
def test_every_group_above_the_process_limits_it(
    tmp_path: Path, names: tuple[str, str, str], root: str, line: str
) -> None:
    (tmp_path / "membership").write_text(line)
    mount = tmp_path / "mount"
    _group(mount / root / "pod" / "container", names, "1000", 700, 200)
    _group(mount / root / "pod", names, "2000", 1950, 100)
    _group(tmp_path, names, "1", 1, 0)
    assert sorted(cgroup_free_bytes(tmp_path / "membership", mount)) == [150, 500]


def test_groups_without_a_limit_or_without_files_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "membership").write_text("0::/a/b\n")
    _group(tmp_path / "mount" / "a", V2, "max", 5, 0)
    assert list(cgroup_free_bytes(tmp_path / "membership", tmp_path / "mount")) == []
    assert list(cgroup_free_bytes(tmp_path / "missing", tmp_path / "mount")) == []


def test_a_group_over_its_limit_has_nothing_left(tmp_path: Path) -> None:
    (tmp_path / "membership").write_text("0::/\n")
    _group(tmp_path / "mount", V2, "100", 150, 10)
    assert list(cgroup_free_bytes(tmp_path / "membership", tmp_path / "mount")) == [0]


def test_this_machine_has_memory() -> None:
    assert free_bytes(torch.device("cpu")) > 0
