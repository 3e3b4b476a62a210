"""A workload that is run once undisturbed, and again with a crash of the operator before or after one of its writes."""

from __future__ import annotations

import re
import threading
import time
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from support.running.end_state import difference, end_state
from support.running.faulty_proxy import Call, FaultyProxy, Forward, reset
from support.running.operator_process import OperatorProcess
from support.running.scene import Scene
from support.running.workloads import Workload

CONVERGE_SECONDS = 30.0
"""From the start of the operator that follows to the same objects."""
QUIET_SECONDS = 5.0
"""For so long nothing is written afterwards, though the resource is looked at twice."""
LONG_QUIET_SECONDS = 60.0
LOOKS = "stageline_operator_reconcile_seconds_count"
_PATH = re.compile(r"^/apis?/.*/namespaces/[^/]+/(?P<plural>[^/]+)(/[^/]+)?(?P<subresource>/[^/]+)?$")


@dataclass(frozen=True)
class Point:
    """A write of the operator's, and on which side of it the operator is killed.

    Attributes:
        number: which of all its writes, or of those of ``kind``; the first is 1.
        kind: as ``kind_of``; "" for any.
    """

    number: int
    after: bool
    kind: str = ""

    def __str__(self) -> str:
        return f"{'after' if self.after else 'before'} {self.kind or 'write'} {self.number}"


@dataclass(frozen=True)
class Undisturbed:
    """What a workload comes to when nothing happens to the operator.

    Attributes:
        writes: the kind of each write, in order.
        end: the objects in the end.
    """

    writes: tuple[str, ...]
    end: Any

    def every_point(self) -> list[Point]:
        """Before and after each write."""
        numbers = range(1, len(self.writes) + 1)
        return [Point(number, after) for number in numbers for after in (False, True)]

    def core_points(self) -> list[Point]:
        """Before the first write, and after the first of each kind: before one is little else than after another."""
        kinds = list(dict.fromkeys(self.writes))
        return [Point(1, False, kinds[0]), *(Point(1, True, kind) for kind in kinds)]


def kind_of(call: Call) -> str:
    """A write without the names in it, like "POST pods" or "PATCH inferencedeployments/status"."""
    found = _PATH.match(call.path)
    assert found is not None, call.path
    return f"{call.method} {found['plural']}{found['subresource'] or ''}"


class Crash:
    """Crashes an operator at a point, once."""

    def __init__(self, proxy: FaultyProxy, operator: OperatorProcess, point: Point) -> None:
        self._operator = operator
        self._point = point
        self._left = point.number
        self._lock = threading.Lock()
        self.has_happened = False
        proxy.add(self._counts, self._fault)

    def _counts(self, call: Call) -> bool:
        return call.is_write and self._point.kind in ("", kind_of(call))

    async def _fault(self, call: Call, forward: Forward) -> web.StreamResponse:
        with self._lock:
            self._left -= 1
            is_it = self._left == 0
        if not is_it:
            return await forward()
        if self._point.after:
            await forward()
        self.has_happened = True
        self._operator.crash()
        return await reset(call, forward)


def run_undisturbed(scene: Scene, workload: Workload) -> Undisturbed:
    """The run that all others are compared with."""
    proxy = scene.proxy()
    operator = scene.run_operator(proxy=proxy)
    workload.prepare(scene)
    wait_quiet(scene, proxy)
    before = len(proxy.writes())
    workload.act(scene)
    scene.wait(lambda: workload.is_done(scene), f"{workload.name} to be done")
    wait_quiet(scene, proxy)
    hold_quiet(scene, proxy, operator, QUIET_SECONDS)
    return Undisturbed(tuple(kind_of(call) for call in proxy.writes()[before:]), end_state(scene))


def run_with_crash(scene: Scene, workload: Workload, point: Point, wanted: Any, quiet: float = QUIET_SECONDS) -> bool:
    """The same with a crash: the operator that follows comes to the same end, and rests.

    Returns:
        False: there was no such write in this run. Two changes of the status may be one when they come together.
    """
    proxy = scene.proxy()
    operator = scene.run_operator(proxy=proxy)
    workload.prepare(scene)
    wait_quiet(scene, proxy)
    crash = Crash(proxy, operator, point)
    workload.act(scene)
    scene.wait(lambda: crash.has_happened or workload.is_done(scene), "the crash")
    if not crash.has_happened:
        wait_quiet(scene, proxy)
    if crash.has_happened:
        # What the user sees may be as wanted already; the quiet begins when the operator is back, not while it is away.
        operator.wait_exits(1)
        operator.wait_leading()
    scene.wait(lambda: workload.is_done(scene), f"{workload.name} to be done after the crash", CONVERGE_SECONDS)
    wait_quiet(scene, proxy)
    found = difference(wanted, end_state(scene))
    assert not found, found
    hold_quiet(scene, proxy, operator, quiet)
    assert operator.exits == [-9] * crash.has_happened, operator.log_tail()
    return crash.has_happened


def wait_quiet(scene: Scene, proxy: FaultyProxy, seconds: float = 1.5) -> None:
    """Until nothing was written for so long."""
    last, since = len(proxy.writes()), time.monotonic()

    def is_quiet() -> bool:
        nonlocal last, since
        if len(proxy.writes()) != last:
            last, since = len(proxy.writes()), time.monotonic()
        return time.monotonic() - since >= seconds

    scene.wait(is_quiet, "no more writes")


def hold_quiet(scene: Scene, proxy: FaultyProxy, operator: OperatorProcess, seconds: float) -> None:
    """Nothing is written for so long, though the resource is looked at twice meanwhile."""
    writes = len(proxy.writes())
    for count in range(2):
        resync(scene, operator, count)
        end = time.monotonic() + seconds / 2
        while time.monotonic() < end:
            late = proxy.writes()[writes:]
            assert not late, "\n".join(f"{call.method} {call.path} {call.body.decode()[:4000]}" for call in late)
            time.sleep(0.1)


def resync(scene: Scene, operator: OperatorProcess, count: int) -> None:
    """Have the resource looked at, by a change that asks for nothing."""
    if scene.api.find("inferencedeployments", "demo", scene.namespace) is None:
        return
    looks = operator.metric(LOOKS)
    label = {"metadata": {"labels": {"example.com/resync": str(count)}}}
    scene.api.patch("inferencedeployments", "demo", label, scene.namespace)
    scene.wait(lambda: operator.metric(LOOKS) > looks, "a look at the resource")
