"""One look after the other at a resource: what is refused, or wrong, keeps nothing else of it waiting."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from stageline_operator.api.errors import ApiError, GoneError, RefusedError
from stageline_operator.apply.events import Events
from stageline_operator.kube.client import Body
from stageline_operator.kube.kinds import POD, RESOURCE, Kind, kind_of
from stageline_operator.observe import learned as learned_module
from stageline_operator.observe.heads import Heads
from stageline_operator.observe.observed import Observer
from stageline_operator.plan.cluster import Cluster
from stageline_operator.runtime import queue as queue_module
from stageline_operator.runtime.metrics import Metrics
from stageline_operator.runtime.poller import Poller
from stageline_operator.runtime.queue import Queue
from stageline_operator.runtime.reconcile import Reconciler
from stageline_operator.runtime.worker import Workers
from support.operator.memory_kube import MemoryKube
from support.operator.simulation import resource

KEY = ("ns", "demo")
PATIENCE = 20.0


@dataclass
class Working:
    """An operator's workers at a server in memory; what a watch would tell is told by ``tell``."""

    kube: MemoryKube
    observer: Observer
    queue: Queue

    def tell(self, body: Body, kind: Kind = POD) -> None:
        key = self.observer.store.put(kind, self.kube.put(body))
        assert key == KEY
        self.queue.add(KEY, at_once=kind == RESOURCE)

    async def wait(self, holds: Callable[[], object], what: str) -> None:
        for _ in range(int(PATIENCE / 0.01)):
            if holds():
                return
            await asyncio.sleep(0.01)
        raise AssertionError(f"waited in vain for {what}: {self.kube.tried[-5:]}")

    def degraded(self) -> dict[str, Any]:
        conditions = self.kube.status().get("conditions") or []
        return next((each for each in conditions if each["type"] == "Degraded"), {})


@asynccontextmanager
async def working(kube: MemoryKube, cluster: Cluster | None = None, **spec: Any) -> AsyncIterator[Working]:
    observer, queue, heads, metrics = Observer(cluster=cluster or Cluster()), Queue(), Heads(), Metrics()
    poller = Poller(heads, observer, queue.add)
    reconciler = Reconciler(kube.as_kube(), observer, Events(kube.as_kube(), "test"))
    scene = Working(kube, observer, queue)
    scene.tell(resource(**spec), RESOURCE)
    task = asyncio.create_task(
        Workers(queue, reconciler, observer, poller, metrics, is_known=lambda namespace: True).run()
    )
    try:
        yield scene
    finally:
        queue.close()
        await task
        await heads.close()


def _quota(kind: Kind, body: Body) -> ApiError | None:
    name = body["metadata"]["name"]
    return RefusedError("exceeded quota: pods=3", 403) if name == "demo-1-s1-0" else None


async def test_while_a_pod_is_refused_another_replicas_stage_is_replaced_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(queue_module, "FIRST_BACK_OFF", 3600.0)
    monkeypatch.setattr(queue_module, "LONGEST_BACK_OFF", 3600.0)
    kube = MemoryKube(_quota)
    async with working(kube, replicas=2) as scene:
        await scene.wait(lambda: scene.degraded().get("reason") == "ChildRefused", "the refusal to be told")
        assert "exceeded quota: pods=3" in scene.degraded()["message"]
        stage = kube.objects[POD, "demo-0-s1-0"]
        scene.tell(stage | {"status": {"phase": "Failed", "reason": "Evicted"}})
        await scene.wait(lambda: (POD, "demo-0-s1-1") in kube.objects, "the next incarnation")
        assert [event["reason"] for event in kube.events].count("ChildRefused") == 1


async def test_what_is_refused_is_tried_again_until_it_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue_module, "FIRST_BACK_OFF", 0.001)
    kube = MemoryKube(_quota)
    async with working(kube, replicas=2) as scene:
        await scene.wait(lambda: kube.tried.count(("Pod", "demo-1-s1-0")) >= 6, "more tries")
        kube.refuse = lambda kind, body: None
        await scene.wait(lambda: (POD, "demo-1-s1-0") in kube.objects, "the pod")
        await scene.wait(lambda: scene.degraded()["status"] == "False", "the refusal to be forgotten")


async def test_a_refusal_is_forgotten_when_the_refused_pod_is_scaled_away() -> None:
    kube = MemoryKube(_quota)
    async with working(kube, replicas=2) as scene:
        await scene.wait(lambda: scene.degraded().get("reason") == "ChildRefused", "the refusal to be told")
        body = kube.objects[RESOURCE, "demo"]
        meta, spec = body["metadata"] | {"generation": 2}, body["spec"] | {"replicas": 1}
        scene.tell(body | {"metadata": meta, "spec": spec}, RESOURCE)
        await scene.wait(lambda: scene.degraded()["status"] == "False", "the refusal to be forgotten")


async def test_a_refusal_whose_words_change_each_time_is_told_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue_module, "FIRST_BACK_OFF", 3600.0)
    monkeypatch.setattr(queue_module, "LONGEST_BACK_OFF", 3600.0)
    kube = MemoryKube(lambda kind, body: RefusedError(f"try {len(kube.tried)}", 403) if kind == POD else None)
    async with working(kube) as scene:
        await scene.wait(lambda: scene.degraded().get("reason") == "ChildRefused", "the refusal to be told")


async def test_a_kind_of_objects_that_the_api_server_no_longer_has_stops_no_pod_and_is_told() -> None:
    def without_groups(kind: Kind, body: Body) -> ApiError | None:
        return GoneError("the server could not find the requested resource", 404) if kind.kind == "PodGroup" else None

    kube = MemoryKube(without_groups)
    async with working(kube, cluster=Cluster(volcano=True)) as scene:
        await scene.wait(lambda: (POD, "demo-0-s1-0") in kube.objects, "the pods")
        await scene.wait(lambda: scene.degraded().get("reason") == "ChildRefused", "what is missing to be told")
        assert "PodGroup demo-0: the server could not find" in scene.degraded()["message"]


async def test_a_resource_whose_spec_is_wrong_says_that_it_is_being_deleted() -> None:
    kube = MemoryKube()
    async with working(kube) as scene:
        await scene.wait(lambda: (POD, "demo-0-s1-0") in kube.objects, "the pods")
        body = kube.objects[RESOURCE, "demo"]
        wrong = body | {"spec": body["spec"] | {"replicas": -1}, "metadata": body["metadata"] | {"generation": 2}}
        scene.tell(wrong, RESOURCE)
        await scene.wait(lambda: scene.degraded()["reason"] == "InvalidSpec", "the wrong spec to be told")
        body = kube.objects[RESOURCE, "demo"]
        scene.tell(body | {"metadata": body["metadata"] | {"deletionTimestamp": "2026-01-01T00:00:00Z"}}, RESOURCE)
        await scene.wait(lambda: kube.status()["phase"] == "Deleting", "the deletion to be told")


async def test_a_name_that_was_taken_is_used_when_it_has_become_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody tells of it: the object that had the name was not ours to watch."""
    monkeypatch.setattr(learned_module, "STRANGER_SECONDS", 0.5)
    kube = MemoryKube()
    theirs = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "demo", "namespace": "ns"}, "spec": {}}
    service = (kind_of("v1", "Service"), "demo")
    kube.put(theirs)
    async with working(kube) as scene:
        await scene.wait(lambda: scene.degraded().get("reason") == "NameTaken", "the taken name to be told")
        assert kube.objects[service]["spec"] == {}
        assert not any(kind == "Pod" for kind, _ in kube.tried), "no replica could work"
        del kube.objects[service]
        await scene.wait(lambda: scene.degraded()["status"] == "False", "the name to be used")
        assert kube.objects[service]["spec"] != {}
