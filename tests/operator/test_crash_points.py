"""The operator is killed at a write of each kind: after a restart it comes to the same end, and rests.

Before the first write of each workload, and after the first of each kind; before and after every write is tried by
``make crash-points`` (check_crash_points.py).
"""

from __future__ import annotations

from pathlib import Path

import pytest

from support.kube.control_plane import ControlPlane
from support.kube.fake_nodes import FakeNodes
from support.running.crash_points import Undisturbed
from support.running.crash_sweep import sweep
from support.running.workloads import WORKLOADS


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", WORKLOADS)
def test_a_crash_at_a_write_of_any_kind_changes_nothing_in_the_end(
    control_plane: ControlPlane, nodes: FakeNodes, definition: None, tmp_path: Path, name: str
) -> None:
    swept = sweep(control_plane, tmp_path, WORKLOADS[name], Undisturbed.core_points, long_quiet=False)
    assert not swept.failures and not swept.missed, str(swept)
