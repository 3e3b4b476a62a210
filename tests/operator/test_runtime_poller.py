"""Heads are asked in turn, however many there are."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from stageline_operator.kube.kinds import POD, RESOURCE
from stageline_operator.observe.heads import Heads
from stageline_operator.observe.observed import Observer
from stageline_operator.runtime.poller import AT_ONCE, Poller

NAMES = tuple(f"demo-{number}" for number in range(3 * AT_ONCE))
LABELS = {
    "stageline.dev/replica": "0",
    "stageline.dev/role": "head",
    "stageline.dev/incarnation": "0",
    "stageline.dev/revision": "abc",
    "app.kubernetes.io/managed-by": "stageline-operator",
}


def resource(name: str) -> dict[str, Any]:
    return {"metadata": {"namespace": "default", "name": name, "uid": f"uid-{name}", "resourceVersion": "1"}}


def head(name: str) -> dict[str, Any]:
    owner = {"kind": "InferenceDeployment", "name": name, "uid": f"uid-{name}", "controller": True}
    return {
        "metadata": {
            "namespace": "default",
            "name": f"{name}-0-head-0",
            "uid": f"head-{name}",
            "resourceVersion": "2",
            "creationTimestamp": "2026-01-02T03:04:05Z",
            "labels": LABELS,
            "ownerReferences": [owner],
        },
        "status": {"phase": "Running", "podIP": "127.0.0.1"},
    }


class Busy:
    """What all heads answer, a moment later; counts how many are asked at the same time."""

    def __init__(self) -> None:
        self.now = 0
        self.most = 0

    async def answer(self, _: web.Request) -> web.Response:
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(0.02)
        self.now -= 1
        return web.Response(status=503)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[int]:
        application = web.Application()
        application.add_routes([web.get("/state", self.answer)])
        runner = web.AppRunner(application)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield runner.addresses[0][1]
        await runner.cleanup()


async def test_many_heads_are_asked_a_few_at_a_time_and_none_is_forgotten() -> None:
    observer, busy, changed = Observer(), Busy(), asyncio.Queue[tuple[str, str]]()
    async with busy.serving() as port:
        poller = Poller(Heads(port), observer, changed.put_nowait)
        for name in NAMES:
            observer.store.put(RESOURCE, resource(name))
            observer.store.put(POD, head(name))
            poller.follow(("default", name), f"uid-{name}", fast=False)
        task = asyncio.create_task(poller.run())
        async with asyncio.timeout(30):
            told = {await changed.get() for _ in NAMES}
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert told == {("default", name) for name in NAMES}
    assert 1 < busy.most <= AT_ONCE
