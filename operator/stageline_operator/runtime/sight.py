"""Proves by reads that the watch tells everything.

The watch is believed, but checked: lists of metadata are compared with what the watch told. Before the first decision
everything that is listed must have been seen; later a state that the watch has not told of within BLIND_SECONDS means
that it is blind, and the process ends to start anew. An object that is in no list any more is forgotten: a watch that
had to begin anew never tells of what was deleted in between.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from stageline_operator.api.constants import FIELD_MANAGER, LABEL_MANAGED_BY
from stageline_operator.api.errors import ApiError, OperatorError
from stageline_operator.kube.client import Kube, Seen
from stageline_operator.kube.kinds import RESOURCE, Kind
from stageline_operator.observe.store import Key, Store

BLIND_SECONDS = 30.0
"""A state that was read and that the watch has not told of for so long."""
FIRST_SIGHT_SECONDS = 180.0
"""The same while the first lists come in: thousands of objects."""
READ_EVERY = 10.0
"""Seconds between two comparisons, at least."""
READ_SHARE = 20
"""And so many times as long as the comparison before took: with thousands of objects, lists cost API server and
operator seconds."""
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
        namespaces: the ones that are served; (None,) for all.
        missed: told of each resource with a child that is gone, or that is gone itself, without the watch's word.
    """

    kube: Kube
    store: Store
    kinds: tuple[Kind, ...]
    namespaces: tuple[str | None, ...]
    missed: Callable[[Key | None], None]
    clock: Callable[[], float] = time.monotonic
    _unseen: dict[str, tuple[int, float]] = field(default_factory=dict)

    async def wait(self, kinds: tuple[Kind, ...] = ()) -> None:
        """Wait until everything that is in the cluster has been seen; an API server that fails is asked again.

        Args:
            kinds: only everything of these.

        Raises:
            BlindError: something is there, and the watch does not tell.
        """
        while True:
            unseen: list[Seen] = []
            try:
                for kind in kinds or self.kinds:
                    found = await self._compare(kind)
                    self._judge(kind, found, FIRST_SIGHT_SECONDS)
                    unseen += found
            except ApiError as error:
                log.warning("not all objects are known yet: %s", error)
                await asyncio.sleep(1.0)
                continue
            if not unseen:
                return
            log.debug("%d objects are not known yet", len(unseen))
            await asyncio.sleep(BARRIER_EVERY)

    async def watch(self) -> None:
        """Compare for ever.

        Raises:
            BlindError: the watch missed something.
        """
        took = 0.0
        while True:
            await asyncio.sleep(max(READ_EVERY, READ_SHARE * took))
            begin = self.clock()
            try:
                for kind in self.kinds:
                    self._judge(kind, await self._compare(kind), BLIND_SECONDS)
            except ApiError as error:
                log.warning("the watch was not checked: %s", error)
            took = self.clock() - begin

    async def _compare(self, kind: Kind) -> list[Seen]:
        """What is listed and was not seen; what was seen and is not listed is forgotten."""
        unseen: list[Seen] = []
        selector = "" if kind == RESOURCE else SELECTOR
        for namespace in self.namespaces:
            gone = self.store.uids(kind, namespace)
            async for chunk in self.kube.list_seen(kind, namespace, selector):
                gone.difference_update(each.uid for each in chunk)
                unseen += [each for each in chunk if not self.store.has_seen(each.uid, int(each.resource_version))]
            for uid in gone & self.store.uids(kind, namespace):
                log.info("%s with uid %s is gone, and the watch had not told", kind.kind, uid)
                self.missed(self.store.drop(uid))
        return unseen

    def _judge(self, kind: Kind, unseen: list[Seen], patience: float) -> None:
        now = self.clock()
        for each in unseen:
            version, since = self._unseen.get(each.uid, (int(each.resource_version), now))
            if self.store.has_seen(each.uid, version):
                version, since = int(each.resource_version), now
            if now - since >= patience:
                raise BlindError(
                    f"the watch of {kind.plural} is blind: {each.namespace}/{each.name} has been at "
                    f"resourceVersion {version} for {now - since:.0f} s, and it has not told"
                )
            self._unseen[each.uid] = (version, since)
        self._unseen = {
            uid: (version, since)
            for uid, (version, since) in self._unseen.items()
            if not self.store.has_seen(uid, version)
        }
