"""Keeps the store true for one kind of children: a list, then a watch, and a list anew when the watch cannot go on.

kopf could watch these kinds, too, but it takes over a list as fast as it comes, whole, with a task for each object: for
4,000 pods that is tens of megabytes and seconds. Here each page is reduced to summaries before the next is asked for.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from stageline_operator.api.errors import ApiError, ForbiddenError, GoneError
from stageline_operator.kube.client import Kube
from stageline_operator.kube.kinds import Kind
from stageline_operator.observe.store import Key, Store
from stageline_operator.runtime.sight import SELECTOR

PAUSE_SECONDS = 0.1
"""Between the end of a watch and the next, so that a server that ends them at once is not asked without end."""
BACK_OFF_SECONDS = (0.5, 1.0, 2.0, 5.0)
"""After the first, second, … failure in a row, and after all further ones."""
REFUSED_SECONDS = (1.0, 2.0, 5.0, 10.0, 30.0)
"""The same after refusals: a Role that is not in force yet comes soon, and one that was taken away may never."""

Refused = Callable[[str | None, ForbiddenError], bool]
"""Told of a namespace in which a list or a watch is refused; says whether it is left alone from now on."""
Saw = Callable[[Kind, bool, Mapping[str, Any]], None]
"""Told of each state: its kind, whether the object was deleted, and its body."""

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Follower:
    """Follows one kind in one namespace (None: in all).

    Attributes:
        dirty: told of each resource whose children a list has shown to be gone.
        listing: shared by all followers: lists are read one after the other, since each takes memory.
        refused: see ``Refused``.
        answered: set when the first list has been told of, or refused.
        is_listed: everything that was there has been told of, and what came since is; not so after a refusal.
    """

    kube: Kube
    kind: Kind
    namespace: str | None
    store: Store
    saw: Saw
    dirty: Callable[[Key], None]
    listing: asyncio.Lock
    refused: Refused
    answered: asyncio.Event = field(default_factory=asyncio.Event)
    is_listed: bool = False
    _since: str = ""
    _failures: int = 0

    async def run(self) -> None:
        """Follow for ever; an API server that fails or is away is asked again."""
        while True:
            try:
                await self._go_on()
            except GoneError as error:
                log.info("%s is listed anew: %s", self.kind.plural, error)
                self._since = ""
                await self._back_off(BACK_OFF_SECONDS)
            except ApiError as error:
                if isinstance(error, ForbiddenError) and self.refused(self.namespace, error):
                    self._since, self.is_listed = "", False
                    self.answered.set()
                    await self._back_off(REFUSED_SECONDS)
                else:
                    log.warning("the watch goes on after a pause: %s", error)
                    await self._back_off(BACK_OFF_SECONDS, error.retry_after or 0.0)
            else:
                await asyncio.sleep(PAUSE_SECONDS)

    async def _go_on(self) -> None:
        if not self._since:
            async with self.listing:
                self._since = await self._list()
            self.is_listed = True
            self.answered.set()
        async for change in self.kube.watch(self.kind, self.namespace, SELECTOR, self._since):
            if change.body is not None:
                self.saw(self.kind, change.deleted, change.body)
            self._since = change.version
            self._failures = 0

    async def _list(self) -> str:
        """Tell of everything that is there.

        Returns:
            resourceVersion from which a watch goes on.
        """
        listed: set[str] = set()
        version = ""
        async for page in self.kube.list_whole(self.kind, self.namespace, SELECTOR):
            version = page.version
            for body in page.bodies:
                listed.add(body["metadata"]["uid"])
                self.saw(self.kind, False, body)
        for key in self.store.drop_unlisted(self.kind, self.namespace, listed, int(version)):
            self.dirty(key)
        return version

    async def _back_off(self, pauses: tuple[float, ...], at_least: float = 0.0) -> None:
        seconds = pauses[min(self._failures, len(pauses) - 1)]
        self._failures += 1
        await asyncio.sleep(max(seconds, at_least))
