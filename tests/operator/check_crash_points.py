"""The operator is killed before and after each of its writes: after a restart it comes to the same end, and rests.

Every point of every workload takes about half an hour on two cores: ``make crash-points``, not part of ``make test``,
which has the crash points in memory (test_crash_points_pure.py). STAGELINE_CRASH_POINTS=5 takes every fifth.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from support.kube.control_plane import ControlPlane
from support.kube.fake_nodes import FakeNodes
from support.running.crash_points import WORKLOADS, run_undisturbed, run_with_crash
from support.running.scene import Scene

EVERY = int(os.environ.get("STAGELINE_CRASH_POINTS", "1"))
AT_ONCE = 4
"""Namespaces at the same time: each mostly waits."""


@contextmanager
def scene_in(plane: ControlPlane, folder: Path, name: str) -> Iterator[Scene]:
    """A namespace of its own."""
    namespace = plane.create_namespace()
    own = folder / name
    own.mkdir()
    with ExitStack() as stack:
        yield Scene(plane, namespace, own, stack)
    plane.api.delete("namespaces", namespace)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", WORKLOADS)
def test_a_crash_at_any_write_changes_nothing_in_the_end(
    control_plane: ControlPlane, nodes: FakeNodes, definition: None, tmp_path: Path, name: str
) -> None:
    workload = WORKLOADS[name]
    with scene_in(control_plane, tmp_path, "undisturbed") as scene:
        writes, wanted = run_undisturbed(scene, workload)
    points = [(k, after) for k in range(1, writes + 1) for after in (False, True)][::EVERY]

    def run(point: tuple[int, bool]) -> str:
        k, after = point
        where = f"{'after' if after else 'before'}-{k}"
        try:
            with scene_in(control_plane, tmp_path, where) as scene:
                result = run_with_crash(scene, workload, k, after=after)
        except AssertionError as error:
            return f"{where}: {error}"
        return "" if result == wanted else f"{where}: {difference(wanted, result)}"

    with ThreadPoolExecutor(AT_ONCE) as pool:
        failures = [each for each in pool.map(run, points) if each]
    assert not failures, f"{len(failures)} of {len(points)} points of {name}:\n" + "\n".join(failures)


def difference(wanted: object, found: object, path: str = "") -> str:
    """The leaves that are in one and not in the other."""
    if isinstance(wanted, dict) and isinstance(found, dict):
        keys = sorted(wanted.keys() | found.keys())
        parts = (difference(wanted.get(key), found.get(key), f"{path}.{key}") for key in keys)
        return "; ".join(part for part in parts if part)
    if isinstance(wanted, list) and isinstance(found, list) and len(wanted) == len(found):
        parts = (difference(*pair, f"{path}[{index}]") for index, pair in enumerate(zip(wanted, found, strict=True)))
        return "; ".join(part for part in parts if part)
    return "" if wanted == found else f"{path}: wanted {wanted}, found {found}"
