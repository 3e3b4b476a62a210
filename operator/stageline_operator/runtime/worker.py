"""Takes keys from the queue, looks at them, and sorts out what failed. Runs only while this process leads."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from stageline_operator.api.errors import ApiError, ConflictError, LeaseLostError, RefusedError
from stageline_operator.observe.observed import Observer
from stageline_operator.observe.store import Key
from stageline_operator.runtime.metrics import Metrics
from stageline_operator.runtime.poller import Poller
from stageline_operator.runtime.queue import Queue
from stageline_operator.runtime.reconcile import Outcome, Reconciler

WORKERS = 8
"""Resources that are looked at at the same time: a look mostly waits for the API server."""
TICK_SECONDS = 300.0
"""Every resource is looked at again after so long, whatever the watch tells."""
QUICK_LOOKS = 3
"""Looks in a row that wrote or learned something and are followed by another one at once."""
SLOW_LOOK_SECONDS = 1.0
"""Further ones follow after so long."""

log = logging.getLogger(__name__)


class Workers:
    """The tasks that look at resources.

    Args:
        is_known: whether all is known of what is in a namespace; elsewhere nothing is looked at, and what is to be
            looked at is told anew when it is known.
    """

    def __init__(
        self,
        queue: Queue,
        reconciler: Reconciler,
        observer: Observer,
        poller: Poller,
        metrics: Metrics,
        *,
        is_known: Callable[[str], bool],
    ) -> None:
        self._queue = queue
        self._reconciler = reconciler
        self._observer = observer
        self._poller = poller
        self._metrics = metrics
        self._is_known = is_known
        self._streaks: dict[Key, int] = {}

    async def run(self) -> None:
        """Look at everything once, and from then on at what is dirty, until the queue is closed.

        Raises:
            LeaseLostError: this process may not write any more; all looks have ended.
        """
        async with asyncio.TaskGroup() as group:
            tick = group.create_task(self._tick())
            workers = [group.create_task(self._work()) for _ in range(WORKERS)]
            await asyncio.wait(workers)
            tick.cancel()

    async def _tick(self) -> None:
        while True:
            for key in list(self._observer.store.resources):
                self._queue.add_routine(key)
            await asyncio.sleep(TICK_SECONDS)

    async def _work(self) -> None:
        while (key := await self._queue.get()) is not None:
            if not self._is_known(key[0]):
                self._queue.done(key)
                continue
            try:
                with self._metrics.reconcile_seconds.time():
                    outcome = await self._reconciler.reconcile(key)
            except LeaseLostError:
                raise
            except ApiError as error:
                self._failed(key, error)
            except Exception as error:
                # A fault of ours in one resource must not stop the others; it shows in metrics and log.
                log.exception("look at %s/%s failed", *key)
                self._failed(key, error)
            else:
                self._went_well(key, outcome)

    def _failed(self, key: Key, error: Exception) -> None:
        self._metrics.errors.labels(type(error).__name__).inc()
        seconds = self._queue.failed(key, error.retry_after if isinstance(error, ApiError) else None)
        level = logging.DEBUG if isinstance(error, ConflictError) else logging.WARNING
        log.log(level, "%s/%s: %s; again in %.1f s", *key, error, seconds)

    def _went_well(self, key: Key, outcome: Outcome) -> None:
        if outcome.owner is None or not self._is_known(key[0]):  # it may have been refused during the look
            self._metrics.forget(key)
            self._poller.forget(key)
        else:
            self._metrics.show(key, outcome.status, outcome.wanted)
            self._poller.follow(key, outcome.owner.uid, outcome.poll)
            self._look_again(key, outcome.look_again)
            if outcome.is_hindered:
                self._metrics.errors.labels(RefusedError.__name__).inc()
            if outcome.again_after is not None:
                self._queue.add_after(key, outcome.again_after)
        self._queue.done(key, outcome.is_hindered)

    def _look_again(self, key: Key, has_changed: bool) -> None:
        """After writes another look finds out whether that was all; should that never end, it is a slow loop."""
        streak = self._streaks.get(key, 0) + 1 if has_changed else 0
        if not has_changed:
            self._streaks.pop(key, None)
            return
        self._streaks[key] = streak
        if streak <= QUICK_LOOKS:
            self._queue.add(key)
        else:
            self._queue.add_after(key, SLOW_LOOK_SECONDS)
