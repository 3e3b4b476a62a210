"""One writer: a Lease that is renewed while this process may write, and that is given back when it ends.

Time is measured by the monotonic clock of this process alone. This process may write until RENEW_WITHIN after it *sent*
the last renewal that succeeded; another may take over when it has seen no renewal for DURATION, so that between the two
there is always a margin for writes that are under way. Both clocks run while a process is stopped.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from stageline_operator.api.errors import ApiError, ConflictError, GoneError, LeaseLostError
from stageline_operator.kube.client import Kube
from stageline_operator.kube.kinds import LEASE

DURATION = 15
"""Seconds without a renewal after which another process may take over."""
RENEW_WITHIN = 10.0
"""Seconds after the sending of the last successful renewal for which this process may write."""
RENEW_EVERY = 3.0
"""Seconds between renewals."""
RETRY_EVERY = 1.0
"""Seconds between tries, of a renewal that failed or of taking over."""
CALL_SECONDS = 3.0
"""Longest that a call about the Lease may take: a hung one must not outlive the deadline."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Sighting:
    """A state of the Lease, and when it was first seen."""

    resource_version: str
    at: float


class Lease:
    """The Lease as one process sees it.

    Args:
        kube: a client of its own, so that no queue of other calls delays a renewal; its calls take CALL_SECONDS.
        identity: of this process: the pod's uid. Two processes that live at the same time must not share it.
    """

    def __init__(
        self,
        kube: Kube,
        namespace: str,
        name: str,
        identity: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._kube = kube
        self._namespace = namespace
        self._name = name
        self._identity = identity
        self._clock = clock
        self._deadline = 0.0
        self._held: dict[str, Any] | None = None
        self._seen: _Sighting | None = None
        self._released = False

    def left(self) -> float:
        """Seconds for which this process may still write; 0 or less: it may not."""
        return 0.0 if self._released else self._deadline - self._clock()

    async def acquire(self) -> None:
        """Wait until this process leads. An API server that does not answer is asked again."""
        while True:
            try:
                if await self._try_acquire():
                    log.info("leading: %s holds lease %s/%s", self._identity, self._namespace, self._name)
                    return
            except ApiError as error:
                log.warning("lease %s/%s: %s", self._namespace, self._name, error)
            await asyncio.sleep(RETRY_EVERY)

    async def keep(self) -> None:
        """Renew until that fails for RENEW_WITHIN.

        Raises:
            LeaseLostError: another process leads, or nobody can tell; ``left`` is 0 or less.
        """
        while True:
            await asyncio.sleep(RENEW_EVERY)
            while not await self._renew():
                if self.left() <= 0:
                    raise LeaseLostError(f"no renewal of lease {self._namespace}/{self._name} for {RENEW_WITHIN:g} s")
                await asyncio.sleep(min(RETRY_EVERY, max(self.left(), 0.0)))

    async def release(self) -> None:
        """Give it back, so that another process can lead at once. From now on nothing may be written."""
        held, self._held = self._held, None
        may_still = self.left() > 0
        self._released = True
        if held is None or not may_still:
            return
        try:
            await self._put(held, holder="", duration=1)
            log.info("lease %s/%s is given back", self._namespace, self._name)
        except ApiError as error:
            log.warning("lease %s/%s was not given back: %s", self._namespace, self._name, error)

    async def _try_acquire(self) -> bool:
        sent = self._clock()
        try:
            lease = await self._kube.get(LEASE, self._namespace, self._name)
        except GoneError:
            return await self._make(sent)
        if not self._may_take(lease):
            return False
        sent = self._clock()
        try:
            self._take(await self._put(lease, holder=self._identity, duration=DURATION), sent)
        except ConflictError:  # someone was faster
            return False
        return True

    async def _make(self, sent: float) -> bool:
        body = {
            "apiVersion": LEASE.api_version,
            "kind": LEASE.kind,
            "metadata": {"name": self._name, "namespace": self._namespace},
            "spec": self._spec({}, self._identity, DURATION),
        }
        try:
            self._take(await self._kube.create(LEASE, body), sent)
        except ConflictError:
            return False
        return True

    def _may_take(self, lease: dict[str, Any]) -> bool:
        spec = lease.get("spec") or {}
        version = lease["metadata"]["resourceVersion"]
        if self._seen is None or self._seen.resource_version != version:
            self._seen = _Sighting(version, self._clock())
        if not spec.get("holderIdentity") or spec["holderIdentity"] == self._identity:
            return True  # given back, or ours from before a restart of this pod's container
        duration = max(int(spec.get("leaseDurationSeconds") or DURATION), 1)
        return self._clock() - self._seen.at >= duration

    async def _renew(self) -> bool:
        assert self._held is not None, "keep() comes after acquire()"
        sent = self._clock()
        try:
            self._take(await self._put(self._held, holder=self._identity, duration=DURATION), sent)
        except ConflictError:
            return await self._look_again()
        except ApiError as error:
            log.warning("lease %s/%s was not renewed: %s", self._namespace, self._name, error)
            return False
        return True

    async def _look_again(self) -> bool:
        """Someone wrote it: we, by a renewal whose answer was lost, or another holder."""
        try:
            lease = await self._kube.get(LEASE, self._namespace, self._name)
        except GoneError:
            holder = "nobody: it was deleted"
        except ApiError as error:
            log.warning("lease %s/%s: %s", self._namespace, self._name, error)
            return False
        else:
            holder = (lease.get("spec") or {}).get("holderIdentity") or "nobody"
            if holder == self._identity:
                self._held = lease
                return False  # and renewed in the next round
        self._deadline = 0.0
        raise LeaseLostError(f"lease {self._namespace}/{self._name} is held by {holder}")

    def _take(self, lease: dict[str, Any], sent: float) -> None:
        self._held = lease
        self._deadline = sent + RENEW_WITHIN

    async def _put(self, lease: dict[str, Any], holder: str, duration: int) -> dict[str, Any]:
        body = {**lease, "spec": self._spec(lease.get("spec") or {}, holder, duration)}
        return await self._kube.replace(LEASE, body)

    def _spec(self, before: dict[str, Any], holder: str, duration: int) -> dict[str, Any]:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        is_new = before.get("holderIdentity") != holder
        transitions = int(before.get("leaseTransitions") or 0)
        return {
            "holderIdentity": holder,
            "leaseDurationSeconds": duration,
            "renewTime": now,
            "acquireTime": now if is_new else before.get("acquireTime", now),
            "leaseTransitions": transitions + 1 if is_new and holder and before else transitions,
        }
