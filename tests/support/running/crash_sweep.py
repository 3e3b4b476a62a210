"""Many crash points of one workload, some at the same time: each in a namespace of its own, and each mostly waits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from support.kube.control_plane import ControlPlane
from support.running.crash_points import (
    LONG_QUIET_SECONDS,
    QUIET_SECONDS,
    Point,
    Undisturbed,
    run_undisturbed,
    run_with_crash,
)
from support.running.scene import scene_of_its_own
from support.running.workloads import Workload

AT_ONCE = 6
"""Namespaces at the same time."""


@dataclass(frozen=True)
class Swept:
    """What came of it.

    Attributes:
        missed: points whose write did not come in their run; they passed as undisturbed ones.
        failures: what was wrong, by point.
    """

    workload: str
    writes: tuple[str, ...]
    points: int
    missed: tuple[Point, ...]
    failures: dict[Point, str]

    def __str__(self) -> str:
        passed = self.points - len(self.failures) - len(self.missed)
        line = f"{self.workload}: {len(self.writes)} writes of {len(set(self.writes))} kinds, {self.points} points, "
        line += f"{passed} passed, {len(self.missed)} had no such write, {len(self.failures)} failed"
        return "\n".join([line, *(f"  {point}: {text}" for point, text in self.failures.items())])


def sweep(
    plane: ControlPlane,
    folder: Path,
    workload: Workload,
    choose: Callable[[Undisturbed], Sequence[Point]],
    *,
    long_quiet: bool,
) -> Swept:
    """Run the workload once, then again with a crash at each point chosen.

    Args:
        long_quiet: after the first point nothing is written for LONG_QUIET_SECONDS.
    """
    with scene_of_its_own(plane, folder / "undisturbed") as scene:
        undisturbed = run_undisturbed(scene, workload)
    points = choose(undisturbed)

    def run(point: Point) -> str | bool:
        quiet = LONG_QUIET_SECONDS if long_quiet and point == points[0] else QUIET_SECONDS
        try:
            with scene_of_its_own(plane, folder / str(point).replace("/", "-")) as scene:
                return run_with_crash(scene, workload, point, undisturbed.end, quiet)
        except AssertionError as error:
            return str(error) or repr(error)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        results = dict(zip(points, pool.map(run, points), strict=True))
    return Swept(
        workload=workload.name,
        writes=undisturbed.writes,
        points=len(points),
        missed=tuple(point for point, result in results.items() if result is False),
        failures={point: result for point, result in results.items() if isinstance(result, str)},
    )
