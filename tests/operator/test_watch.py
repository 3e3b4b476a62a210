"""A watch that goes wrong in any way: the operator notices, or does not need it; running pods are never touched."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable

import pytest

from support.kube.api import Object
from support.running.faulty_proxy import Call, FaultyProxy
from support.running.operator_process import OperatorProcess
from support.running.scene import Scene, demo
from support.running.survival import heals, uids


def is_watch_of(resource: str) -> Callable[[Call], bool]:
    return lambda call: call.is_watch and call.path.endswith(f"/{resource}")


def ready_demo(scene: Scene) -> tuple[FaultyProxy, OperatorProcess, dict[str, str]]:
    """A ready resource, served through a proxy; with the uids of its pods."""
    proxy = scene.proxy()
    operator = scene.run_operator(proxy=proxy)
    scene.apply(demo())
    scene.wait_phase("Ready")
    return proxy, operator, uids(scene)


async def twice(line: bytes) -> list[bytes]:
    return [line, line]


async def late(line: bytes) -> list[bytes]:
    await asyncio.sleep(2)
    return [line]


def swapped() -> Callable[[bytes], Awaitable[list[bytes]]]:
    """Each event comes after the one that followed it, or half a second late."""
    kept: list[bytes] = []

    async def lines(line: bytes) -> list[bytes]:
        kept.append(line)
        if len(kept) < 2:
            return []
        first, second = kept
        kept.clear()
        return [second, first]

    return lines


@pytest.mark.parametrize("lines", [twice, late, swapped()], ids=["twice", "late", "out of order"])
def test_events_may_come_twice_late_or_out_of_order(
    scene: Scene, lines: Callable[[bytes], Awaitable[list[bytes]]]
) -> None:
    proxy, operator, before = ready_demo(scene)
    proxy.change_watches(is_watch_of("pods"), lines)
    heals(scene, "demo-0-s1-0", "demo-0-s1-1")
    assert {name: uid for name, uid in uids(scene).items() if name in before} == {
        name: uid for name, uid in before.items() if name != "demo-0-s1-0"
    }
    assert operator.exits in ([], [1])  # blind for an event that never came: a fresh start sees it


def test_a_watch_that_is_cut_goes_on_where_it_was(scene: Scene) -> None:
    proxy, operator, before = ready_demo(scene)
    proxy.cut_connections()
    heals(scene, "demo-0-s1-0", "demo-0-s1-1")
    proxy.cut_connections()
    heals(scene, "demo-0-s0-0", "demo-0-s0-1")
    assert uids(scene)["demo-0-head-0"] == before["demo-0-head-0"]
    assert operator.exits == []


def error_event(code: int) -> bytes:
    status: Object = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": "the test"}
    return json.dumps({"type": "ERROR", "object": status}).encode() + b"\n"


ERRORS = pytest.mark.parametrize(
    "instead",
    [error_event(410), error_event(429), error_event(500), b'{"type": "MODIFIED", "obj\n'],
    ids=["410", "429", "500", "half a line"],
)


def break_once(proxy: FaultyProxy, resource: str, instead: bytes) -> list[bytes]:
    """From now on the next event of ``resource`` is replaced.

    Returns:
        The events that were: one or none.
    """
    broken: list[bytes] = []

    async def lines(line: bytes) -> list[bytes]:
        if broken:
            return [line]
        broken.append(line)
        return [instead]

    proxy.change_watches(is_watch_of(resource), lines)
    return broken


@ERRORS
def test_an_error_in_the_stream_of_children_costs_nothing(scene: Scene, instead: bytes) -> None:
    proxy, operator, before = ready_demo(scene)
    broken = break_once(proxy, "pods", instead)
    heals(scene, "demo-0-s1-0", "demo-0-s1-1")
    assert broken
    assert uids(scene)["demo-0-head-0"] == before["demo-0-head-0"]
    assert uids(scene)["demo-0-s0-0"] == before["demo-0-s0-0"]
    assert operator.exits == []
    assert operator.metric("stageline_operator_missed_deletions_total") == 0


@ERRORS
def test_an_error_in_the_stream_of_resources_costs_at_most_a_restart(scene: Scene, instead: bytes) -> None:
    proxy, operator, before = ready_demo(scene)
    broken = break_once(proxy, "inferencedeployments", instead)
    scene.change(replicas=2)
    scene.wait(lambda: scene.resource()["status"].get("ready") == "2/2", "the change to be seen", patience=120)
    assert broken
    assert before.items() <= uids(scene).items()
    assert len(operator.exits) <= 1


def test_a_silent_watch_is_found_out_by_reads(scene: Scene) -> None:
    proxy, operator, before = ready_demo(scene)

    async def swallow(line: bytes) -> list[bytes]:
        return []

    proxy.change_watches(is_watch_of("services"), swallow)
    changed = {"metadata": {"annotations": {"example.com/changed": "yes"}}}
    scene.api.patch("services", "demo", changed, scene.namespace)
    scene.wait(lambda: operator.exits == [1], "the operator to find out that it is blind", patience=90)
    assert "is blind" in operator.log.read_text()
    proxy.leave_watches()
    operator.wait_leading()
    assert uids(scene) == before


def test_a_deletion_that_the_watch_keeps_to_itself_is_found_by_reads(scene: Scene) -> None:
    proxy, operator, _ = ready_demo(scene)

    async def without_deletions(line: bytes) -> list[bytes]:
        return [] if json.loads(line)["type"] == "DELETED" else [line]

    proxy.change_watches(is_watch_of("poddisruptionbudgets"), without_deletions)
    scene.api.delete("poddisruptionbudgets", "demo-0", scene.namespace)
    scene.wait(lambda: "demo-0" in scene.names("poddisruptionbudgets"), "the budget to come back")
    assert operator.metric("stageline_operator_missed_deletions_total") == 1
    assert operator.exits == []


def test_nothing_is_decided_before_everything_was_seen(scene: Scene) -> None:
    """The list of pods comes late: an operator that did not wait would make them all again."""
    with scene.operator(name="first") as first:
        first.wait_leading()
        scene.apply(demo())
        scene.wait_phase("Ready")
    before = uids(scene)
    proxy = scene.proxy()

    async def slow(call: Call, forward: Callable[[], Awaitable[object]]) -> object:
        await asyncio.sleep(4)
        return await forward()

    proxy.add(
        lambda call: call.path.endswith("/pods") and not call.is_watch and "PartialObject" not in accept(call),
        slow,  # type: ignore[arg-type]
        times=1,
    )
    second = scene.run_operator(name="second", proxy=proxy)
    scene.wait(lambda: second.metric("stageline_operator_reconcile_seconds_count") > 0, "the first look")
    assert uids(scene) == before
    assert proxy.writes() == []


def accept(call: Call) -> str:
    return call.request.headers.get("Accept", "")
