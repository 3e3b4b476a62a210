"""Proves by reads that the watch tells everything.

The watch is believed, but checked: lists of metadata are compared with what the watch told. Before the first decision
everything that is listed must have been seen; later a state that the watch has not told of within BLIND_SECONDS means
that it is blind, and the process ends to start anew. An object that is in no list any more is forgotten: a watch that
had to begin anew never tells of what was deleted in between. A namespace in which a list is refused is out of sight
until all of it has been compared again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from stageline_operator.api.constants import FIELD_MANAGER, LABEL_MANAGED_BY
from stageline_operator.api.errors import ApiError, ForbiddenError, OperatorError
from stageline_operator.kube.client import Kube, Seen
from stageline_operator.kube.kinds import RESOURCE, Kind
from stageline_operator.observe.store import Key, Store
from stageline_operator.runtime.namespaces import Namespaces

BLIND_SECONDS = 30.0
"""A state that was read and that the watch has not told of for so long."""
FIRST_SIGHT_SECONDS = 180.0
"""The same while the first lists come in: thousands of objects."""
READ_EVERY = 10.0
"""Seconds between two comparisons, at least."""
READ_SHARE = 20
"""And so many times as long as the comparison before took: with thousands of objects, lists cost API server and
operator seconds."""
READ_AT_MOST = 300.0
"""But no longer: a pass of which each call took its time to fail is no measure."""
ADMIT_EVERY = 5.0
"""Seconds between looks whether a namespace that is not known has been listed meanwhile."""
BARRIER_EVERY = 0.2
"""Seconds between two comparisons while the first one is not complete."""
SELECTOR = f"{LABEL_MANAGED_BY}={FIELD_MANAGER}"
"""Of children; a resource itself has no label of ours."""

log = logging.getLogger(__name__)


class BlindError(OperatorError):
    """The watch does not tell what reads show."""


@dataclass(slots=True)
class Sight:
    """Compares lists with the store.

    Attributes:
        is_listed: whether children of a namespace have been listed, and are followed.
        missed: told of each resource with a child that is gone, or that is gone itself, without the watch's word; and
            whether the watch should have told.
    """

    kube: Kube
    store: Store
    kinds: tuple[Kind, ...]
    namespaces: Namespaces
    is_listed: Callable[[str | None], bool]
    missed: Callable[[Key | None, bool], None]
    clock: Callable[[], float] = time.monotonic
    _unseen: dict[str, tuple[str, int, float]] = field(default_factory=dict)

    async def first(self) -> None:
        """Wait until all resources have been seen, wherever that is not refused, and in one namespace at least; an API
        server that fails is asked again. Children are not compared yet: they have just been listed.

        Raises:
            BlindError: something is there, and the watch does not tell.
        """
        while not self.namespaces.known:
            listed = [each for each in self.namespaces.names if self.is_listed(each)]
            seen = await self._wait(listed, (RESOURCE,))
            for namespace in seen:
                self.namespaces.admit(namespace)
            if not seen:
                await asyncio.sleep(1.0)

    async def again(self) -> None:
        """Wait until everything in the namespaces that are known has been seen, as of now.

        Raises:
            BlindError: something is there, and the watch does not tell.
        """
        await self._wait(list(self.namespaces.known), self.kinds)

    async def admit(self) -> None:
        """Admit for ever what can be seen again; for the process that leads, since nobody else writes then.

        Raises:
            BlindError: something is there, and the watch does not tell.
        """
        while True:
            for namespace in set(self.namespaces.names) - self.namespaces.known:
                if self.is_listed(namespace):
                    for each in await self._wait([namespace], self.kinds):
                        self.namespaces.admit(each)
            await asyncio.sleep(ADMIT_EVERY)

    async def watch(self) -> None:
        """Compare for ever what is known.

        Raises:
            BlindError: the watch missed something.
        """
        took = 0.0
        while True:
            await asyncio.sleep(min(max(READ_EVERY, READ_SHARE * took), READ_AT_MOST))
            begin = self.clock()
            try:
                for namespace in list(self.namespaces.known):
                    await self._look(namespace, self.kinds, BLIND_SECONDS)
            except ApiError as error:
                log.warning("the watch was not checked: %s", error)
            took = self.clock() - begin

    async def _wait(self, namespaces: list[str | None], kinds: tuple[Kind, ...]) -> list[str | None]:
        """Wait until everything of these kinds in these namespaces has been seen.

        Returns:
            The ones where it was; in the others it is refused.
        """
        while True:
            unseen = 0
            try:
                for namespace in list(namespaces):
                    found = await self._look(namespace, kinds, FIRST_SIGHT_SECONDS)
                    if found is None:
                        namespaces.remove(namespace)
                    else:
                        unseen += found
            except ApiError as error:
                log.warning("not all objects are known yet: %s", error)
                await asyncio.sleep(1.0)
                continue
            if not unseen:
                return [each for each in namespaces if self.is_listed(each)]
            log.debug("%d objects are not known yet", unseen)
            await asyncio.sleep(BARRIER_EVERY)

    async def _look(self, namespace: str | None, kinds: tuple[Kind, ...], patience: float) -> int | None:
        """Compare and judge one namespace.

        Returns:
            Number of objects that were not seen; None: a list is refused.
        """
        unseen = 0
        try:
            for kind in kinds:
                found = await self._compare(kind, namespace)
                self._judge(kind, found, patience)
                unseen += len(found)
        except ForbiddenError as error:
            if not self.namespaces.refuse(namespace, error):
                raise
            self._unseen = {uid: each for uid, each in self._unseen.items() if each[0] != namespace}
            return None
        return unseen

    async def _compare(self, kind: Kind, namespace: str | None) -> list[Seen]:
        """What is listed and was not seen; what was seen and is not listed is forgotten."""
        unseen: list[Seen] = []
        selector = "" if kind == RESOURCE else SELECTOR
        gone = self.store.uids(kind, namespace)
        async for chunk in self.kube.list_seen(kind, namespace, selector):
            gone.difference_update(each.uid for each in chunk)
            unseen += [each for each in chunk if not self.store.has_seen(each.uid, int(each.resource_version))]
        for uid in gone & self.store.uids(kind, namespace):
            log.info("%s with uid %s is gone, and the watch had not told", kind.kind, uid)
            self.missed(self.store.drop(uid), namespace in self.namespaces.known)
        return unseen

    def _judge(self, kind: Kind, unseen: list[Seen], patience: float) -> None:
        now = self.clock()
        for each in unseen:
            _, version, since = self._unseen.get(each.uid, ("", int(each.resource_version), now))
            if self.store.has_seen(each.uid, version):
                version, since = int(each.resource_version), now
            if now - since >= patience:
                raise BlindError(
                    f"the watch of {kind.plural} is blind: {each.namespace}/{each.name} has been at "
                    f"resourceVersion {version} for {now - since:.0f} s, and it has not told"
                )
            self._unseen[each.uid] = (each.namespace, version, since)
        self._unseen = {uid: each for uid, each in self._unseen.items() if not self.store.has_seen(uid, each[1])}
