"""The queue of dirty keys: each is in it once, is worked on by one task at a time, and backs off while it fails.

Routine looks, which come for all resources at about the same time, give way to what has just happened to one.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable

from stageline_operator.observe.store import Key

FIRST_BACK_OFF = 0.2
"""Seconds after the first failure of a key; doubled with each further one."""
LONGEST_BACK_OFF = 30.0
"""Seconds; with up to a fifth more by chance, so that keys that failed together do not come back together."""


class Queue:
    """Dirty keys. For one event loop; nothing here waits but ``get``."""

    def __init__(self, jitter: Callable[[], float] = random.random) -> None:
        self._jitter = jitter
        self._ready: deque[Key] = deque()
        self._routine: dict[Key, None] = {}
        self._dirty: set[Key] = set()
        self._active: set[Key] = set()
        self._failures: dict[Key, int] = {}
        self._hindered: dict[Key, int] = {}
        self._timers: dict[Key, asyncio.TimerHandle] = {}
        self._held: dict[Key, tuple[float, bool]] = {}
        self._wake = asyncio.Event()
        self._closed = False

    def __len__(self) -> int:
        """Keys that wait now; those that back off, or are looked at later, are not counted."""
        return len(self._ready) + len(self._routine)

    def add(self, key: Key, at_once: bool = False) -> None:
        """Something about ``key`` changed. While it backs off, it stays there: the change is seen then.

        Args:
            at_once: end the back-off, since a person did something; not one that the API server asked for.
        """
        self._routine.pop(key, None)
        if key in self._dirty:
            return
        until, asked_for = self._held.get(key, (0.0, False))
        if until > self._now() and (asked_for or not at_once):
            return
        self._held.pop(key, None)
        self._dirty.add(key)
        if key not in self._active:
            self._push(key)

    def add_routine(self, key: Key) -> None:
        """Look at ``key`` when nothing else waits. While it backs off, it stays there."""
        if key not in self._dirty:
            self._routine[key] = None
            self._wake.set()

    def add_after(self, key: Key, seconds: float) -> None:
        """Look at ``key`` again after so long, or earlier when an earlier time is set already."""
        at = self._now() + seconds
        timer = self._timers.get(key)
        if timer is not None:
            if timer.when() <= at:
                return
            timer.cancel()
        self._timers[key] = asyncio.get_running_loop().call_at(at, self._fire, key)

    async def get(self) -> Key | None:
        """The next key; nobody else gets it until ``done`` or ``failed``. None: the queue is closed."""
        while not (self._closed or self._ready):
            self._admit_routine()
            if not self._ready:
                self._wake.clear()
                await self._wake.wait()
        if self._closed:
            return None
        key = self._ready.popleft()
        self._dirty.discard(key)
        self._active.add(key)
        return key

    def close(self) -> None:
        """Give out no key any more."""
        self._closed = True
        self._wake.set()

    def done(self, key: Key, is_hindered: bool = False) -> None:
        """Work on ``key`` went well; if it became dirty meanwhile it is next in line again.

        Args:
            is_hindered: a part of it was refused: it comes again after a back-off, but nothing keeps news from being
                seen before.
        """
        self._failures.pop(key, None)
        if is_hindered:
            count = self._hindered.get(key, 0)
            self._hindered[key] = count + 1
            self.add_after(key, self._back_off(count))
        else:
            self._hindered.pop(key, None)
        self._release(key)

    def failed(self, key: Key, retry_after: float | None = None) -> float:
        """Work on ``key`` failed: it comes back after its back-off, and not before ``retry_after`` seconds.

        Returns:
            Seconds until then.
        """
        count = self._failures.get(key, 0)
        self._failures[key] = count + 1
        seconds = max(self._back_off(count), retry_after or 0.0)
        self._held[key] = (self._now() + seconds, retry_after is not None)
        self._dirty.discard(key)
        self._active.discard(key)
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()
        self._timers[key] = asyncio.get_running_loop().call_later(seconds, self._fire, key)
        return seconds

    def _fire(self, key: Key) -> None:
        self._timers.pop(key, None)
        self._held.pop(key, None)
        self.add(key)

    def _admit_routine(self) -> None:
        """Put the next key with nothing but a routine look in line."""
        while self._routine and not self._ready:
            self.add(next(iter(self._routine)))

    def _release(self, key: Key) -> None:
        self._active.discard(key)
        if key in self._dirty:
            self._push(key)

    def _push(self, key: Key) -> None:
        self._ready.append(key)
        self._wake.set()

    def _back_off(self, count: int) -> float:
        return min(FIRST_BACK_OFF * 2.0 ** min(count, 16), LONGEST_BACK_OFF) * (1 + self._jitter() / 5)

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()
