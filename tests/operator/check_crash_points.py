"""The operator is killed before and after each of its writes: after a restart it comes to the same end, and rests.

Every point of every workload takes about half an hour on two cores: ``make crash-points``. ``make test`` has a core of
them (test_crash_points.py), and all of them in memory (test_crash_points_pure.py). STAGELINE_CRASH_POINTS=5 takes every
fifth.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from support.kube.control_plane import ControlPlane
from support.kube.fake_nodes import FakeNodes
from support.running.crash_sweep import sweep
from support.running.workloads import WORKLOADS

EVERY = int(os.environ.get("STAGELINE_CRASH_POINTS", "1"))


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", WORKLOADS)
def test_a_crash_at_any_write_changes_nothing_in_the_end(
    control_plane: ControlPlane, nodes: FakeNodes, definition: None, tmp_path: Path, name: str
) -> None:
    swept = sweep(control_plane, tmp_path, WORKLOADS[name], lambda known: known.every_point()[::EVERY], long_quiet=True)
    print(f"\n{swept}")
    assert not swept.failures, str(swept)
    # The operator was ahead of a few: not of so many that little was tried.
    assert len(swept.missed) <= swept.points // 10, str(swept)
