"""Asks heads for their state, often while something progresses. An answer that is new makes the resource dirty."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from stageline_operator.decide.observed import PodSummary
from stageline_operator.observe.heads import Heads, Heard
from stageline_operator.observe.observed import Observer
from stageline_operator.observe.store import Key

FAST_SECONDS = 2.0
"""Between questions to a head while its resource progresses."""
SLOW_SECONDS = 30.0
"""Between questions to a head otherwise."""
TICK_SECONDS = 0.1
"""Between looks for heads whose turn it is."""
AT_ONCE = 16
"""Heads that are asked at the same time: hundreds of them are asked one after the other, in the order of their turn."""


@dataclass(slots=True)
class _Followed:
    key: Key
    uid: str
    every: float
    due: float
    task: asyncio.Task[None] | None = None


class Poller:
    """Follows the heads of all resources. Answers go to ``observer.answers``.

    Args:
        fast, slow: seconds between questions.
        changed: told the key of a resource whose head says something new.
    """

    def __init__(
        self,
        heads: Heads,
        observer: Observer,
        changed: Callable[[Key], None],
        fast: float = FAST_SECONDS,
        slow: float = SLOW_SECONDS,
    ) -> None:
        self._heads = heads
        self._observer = observer
        self._changed = changed
        self._fast = fast
        self._slow = slow
        self._followed: dict[str, _Followed] = {}

    def follow(self, key: Key, owner_uid: str, fast: bool) -> None:
        """From now on ask the heads that this resource has now."""
        every = self._fast if fast else self._slow
        now = time.monotonic()
        current = {pod.uid for pod in self._askable(owner_uid)}
        for uid in current:
            known = self._followed.get(uid)
            if known is None:
                self._followed[uid] = _Followed(key, uid, every, now)
            elif known.every != every:
                known.every = every
                known.due = min(known.due, now + every)
        for uid, followed in list(self._followed.items()):
            if followed.key == key and uid not in current:
                self._unfollow(uid)

    def forget(self, key: Key) -> None:
        """The resource is gone."""
        for uid, followed in list(self._followed.items()):
            if followed.key == key:
                self._unfollow(uid)

    async def run(self) -> None:
        """Ask for ever."""
        try:
            while True:
                now = time.monotonic()
                asked = sum(each.task is not None for each in self._followed.values())
                waiting = [each for each in self._followed.values() if each.due <= now and each.task is None]
                waiting.sort(key=lambda each: each.due)
                for followed in waiting[: AT_ONCE - asked]:
                    followed.due = now + followed.every
                    followed.task = asyncio.create_task(self._ask(followed))
                await asyncio.sleep(TICK_SECONDS)
        finally:
            for uid in list(self._followed):
                self._unfollow(uid)
            await self._heads.close()

    async def _ask(self, followed: _Followed) -> None:
        try:
            entry = self._observer.store.entries.get(followed.uid)
            if entry is None or not isinstance(entry.content, PodSummary):
                return
            answer = await self._heads.ask(entry.content)
            before = self._observer.answers.get(followed.uid)
            if followed.uid in self._followed:
                self._observer.answers[followed.uid] = answer
                if before is None or _said(before) != _said(answer):
                    self._changed(followed.key)
        finally:
            followed.task = None

    def _askable(self, owner_uid: str) -> list[PodSummary]:
        pods = (entry.content for entry in self._observer.store.of_owner(owner_uid))
        return [
            pod
            for pod in pods
            if isinstance(pod, PodSummary) and pod.is_head and pod.address and pod.phase == "Running"
        ]

    def _unfollow(self, uid: str) -> None:
        followed = self._followed.pop(uid)
        self._observer.answers.pop(uid, None)
        if followed.task is not None:
            followed.task.cancel()


def _said(heard: Heard) -> object:
    return heard.content, heard.error
