"""Joins the parts that run for ever, but for the watch of the resources themselves, which tells through ``saw``."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

from stageline_operator.api.constants import KIND
from stageline_operator.api.errors import ApiError, GoneError, OperatorError
from stageline_operator.apply.events import Events
from stageline_operator.kube.api_client import KubeClient
from stageline_operator.kube.discovery import Readable, discover
from stageline_operator.kube.kinds import RESOURCE, Kind, watched_children
from stageline_operator.observe.heads import Heads
from stageline_operator.observe.observed import Observer
from stageline_operator.observe.store import Key
from stageline_operator.plan.cluster import Cluster
from stageline_operator.runtime.follow import Follower
from stageline_operator.runtime.lease import Lease
from stageline_operator.runtime.metrics import Metrics
from stageline_operator.runtime.namespaces import Namespaces
from stageline_operator.runtime.options import Options
from stageline_operator.runtime.poller import Poller
from stageline_operator.runtime.queue import Queue
from stageline_operator.runtime.reconcile import Reconciler
from stageline_operator.runtime.sight import Sight
from stageline_operator.runtime.worker import Workers

DISCOVER_EVERY = 300.0
"""Seconds between looks at what the API server offers."""

log = logging.getLogger(__name__)


class ClusterChangedError(OperatorError):
    """The API server offers other kinds than at the start: the process ends, and its next start watches them."""


class Operator:
    """One process's operator. To be made inside the event loop, after ``wait_for_cluster``."""

    def __init__(self, options: Options, kube: KubeClient, lease: Lease, cluster: Cluster, metrics: Metrics) -> None:
        children = watched_children(cluster)
        self.metrics = metrics
        self.is_ready = False
        self._working: asyncio.Task[None] | None = None
        self._kube = kube
        self._lease = lease
        self._cluster = cluster
        self._observer = Observer(cluster=cluster)
        self._queue = Queue()
        fast, slow = options.state_seconds
        self._heads = Heads()
        self._poller = Poller(self._heads, self._observer, self._queue.add_routine, fast, slow)
        events = Events(kube, options.identity)
        reconciler = Reconciler(kube, self._observer, events)
        namespaces = Namespaces(options.namespaces or (None,), self._admitted, self._refused)
        self._workers = Workers(
            self._queue, reconciler, self._observer, self._poller, metrics, is_known=namespaces.is_known
        )
        store, listing = self._observer.store, asyncio.Lock()
        self._followers = [
            Follower(kube, kind, namespace, store, self.saw, self._queue.add, listing, namespaces.refuse)
            for kind in children
            for namespace in namespaces.names
        ]
        self._sight = Sight(kube, store, (RESOURCE, *children), namespaces, self._is_listed, self._missed)
        metrics.queue_depth.set_function(lambda: len(self._queue))
        metrics.objects.set_function(lambda: len(self._observer.store.entries))

    def saw(self, kind: Kind, deleted: bool, body: Mapping[str, Any]) -> None:
        """A watch told of an object's state; ``deleted``: of its last one."""
        store = self._observer.store
        if deleted:
            meta = body["metadata"]
            key = store.drop(meta["uid"], int(meta["resourceVersion"]))
        else:
            key = store.put(kind, body)
        if key is not None:
            self._queue.add(key, at_once=kind == RESOURCE)

    async def run(self) -> None:
        """Wait for the Lease, then work, until something ends it.

        Raises:
            LeaseLostError: another process leads.
            BlindError: the watch does not tell everything.
            ClusterChangedError: start anew.
        """
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._look_around())
                for follower in self._followers:
                    group.create_task(follower.run())
                group.create_task(self._work())
        except* OperatorError as errors:
            raise first(errors) from errors
        finally:
            await self._heads.close()

    async def drain(self, seconds: float) -> None:
        """Begin no look any more, and wait until those under way have ended, at most for so long."""
        self._queue.close()
        if self._working is not None:
            await asyncio.wait({self._working}, timeout=seconds)

    async def _work(self) -> None:
        for follower in self._followers:
            await follower.answered.wait()
        await self._sight.first()
        self.is_ready = True
        log.info("%d objects are known; waiting for the lease", len(self._observer.store.entries))
        async with asyncio.TaskGroup() as group:
            group.create_task(self._sight.watch())
            await self._lease.acquire()
            group.create_task(self._lease.keep())
            # What the leader before wrote last may not have been told of yet.
            await self._sight.again()
            self.metrics.leading.set(1)
            group.create_task(self._sight.admit())
            group.create_task(self._poller.run())
            self._working = group.create_task(self._workers.run())

    async def _look_around(self) -> None:
        while True:
            await asyncio.sleep(DISCOVER_EVERY)
            try:
                cluster = await discover(self._kube)
            except ApiError as error:
                log.warning("what the API server offers was not looked up: %s", error)
                continue
            if cluster != self._cluster:
                raise ClusterChangedError(f"the API server offers {cluster} now instead of {self._cluster}")

    def _is_listed(self, namespace: str | None) -> bool:
        return all(follower.is_listed for follower in self._followers if follower.namespace == namespace)

    def _admitted(self, namespace: str | None) -> None:
        if namespace is not None:
            self.metrics.namespace_refused.labels(namespace).set(0)
        for key in self._keys(namespace):
            self._queue.add(key)

    def _refused(self, namespace: str) -> None:
        """What was last known of its resources is not shown as if it were true now."""
        self.metrics.namespace_refused.labels(namespace).set(1)
        for key in self._keys(namespace):
            self.metrics.forget(key)
            self._poller.forget(key)

    def _keys(self, namespace: str | None) -> list[Key]:
        return [key for key in self._observer.store.resources if namespace in (None, key[0])]

    def _missed(self, key: Key | None, should_have_told: bool) -> None:
        if should_have_told:
            self.metrics.missed_deletions.inc()
        if key is not None:
            self._queue.add(key)


async def wait_for_cluster(kube: Readable) -> Cluster:
    """What the API server offers, as soon as it answers and has our definition: kopf looks for kinds only once."""
    while True:
        try:
            return await discover(kube)
        except GoneError as error:
            log.warning("the CustomResourceDefinition of %s is not installed yet: %s", KIND, error)
            await asyncio.sleep(2.0)
        except ApiError as error:
            log.warning("the API server does not answer yet: %s", error)
            await asyncio.sleep(2.0)


def first(group: BaseExceptionGroup[OperatorError]) -> OperatorError:
    """The first error of a group, however deep."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, OperatorError)
    return error
