"""Events about a resource: equal ones are joined into a series, and no resource floods the cluster."""

from __future__ import annotations

import hashlib
import logging
import time
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from stageline_operator.api.constants import API_VERSION, FIELD_MANAGER, KIND
from stageline_operator.api.errors import ApiError
from stageline_operator.decide.actions import EmitEvent, Ref
from stageline_operator.kube.client import Kube
from stageline_operator.kube.kinds import EVENT
from stageline_operator.plan.spec import Owner

BURST = 25
"""Events that a resource may have at once."""
REFILL_SECONDS = 12.0
"""One more after so long."""
JOIN_SECONDS = 600.0
"""An equal Event within so long adds to the first one's count."""
MAX_KEPT = 4096
"""Series and budgets that are kept; the oldest go first."""
MAX_NOTE = 1024
"""Characters that the API server accepts."""

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Series:
    name: str
    count: int
    until: float


class Events:
    """Sends Events. One that cannot be sent is logged and forgotten: an Event is news, not state."""

    def __init__(self, kube: Kube, instance: str) -> None:
        self._kube = kube
        self._instance = instance
        self._series: OrderedDict[int, _Series] = OrderedDict()
        self._tokens: OrderedDict[str, tuple[float, float]] = OrderedDict()

    async def emit(self, action: EmitEvent, owner: Owner) -> None:
        """Send one, unless the resource had too many lately."""
        now = time.monotonic()
        key = hash((owner.uid, action.type, action.reason, action.message, action.about))
        series = self._series.get(key)
        if not self._may_send(owner.uid, now):
            log.debug("too many events of %s/%s: %s is not sent", owner.namespace, owner.name, action.reason)
            return
        try:
            if series is not None and series.until > now:
                series.count += 1
                changes = {"series": {"count": series.count, "lastObservedTime": _micro_time()}}
                await self._kube.patch(EVENT, owner.namespace, series.name, changes)
            else:
                body = self._body(action, owner)
                await self._kube.create(EVENT, body)
                self._remember(key, _Series(body["metadata"]["name"], 1, now + JOIN_SECONDS))
        except ApiError as error:
            self._series.pop(key, None)
            log.warning("event %s of %s/%s was not sent: %s", action.reason, owner.namespace, owner.name, error)

    def _remember(self, key: int, series: _Series) -> None:
        self._series[key] = series
        if len(self._series) > MAX_KEPT:
            self._series.popitem(last=False)

    def _may_send(self, uid: str, now: float) -> bool:
        left, at = self._tokens.pop(uid, (float(BURST), now))
        left = min(float(BURST), left + (now - at) / REFILL_SECONDS)
        allowed = left >= 1
        self._tokens[uid] = (left - 1 if allowed else left, now)
        if len(self._tokens) > MAX_KEPT:
            self._tokens.popitem(last=False)
        return allowed

    def _body(self, action: EmitEvent, owner: Owner) -> dict[str, Any]:
        stamp = time.time_ns()
        digest = hashlib.sha256(f"{owner.uid}{action.reason}{action.message}".encode()).hexdigest()[:8]
        body: dict[str, Any] = {
            "apiVersion": EVENT.api_version,
            "kind": EVENT.kind,
            "metadata": {"name": f"{owner.name}.{stamp:x}.{digest}", "namespace": owner.namespace},
            "eventTime": _micro_time(),
            "reportingController": f"stageline.dev/{FIELD_MANAGER}",
            "reportingInstance": self._instance[:128],
            "action": action.reason.value,
            "reason": action.reason.value,
            "type": action.type,
            "note": action.message[:MAX_NOTE],
            "regarding": _reference(owner, Ref(API_VERSION, KIND, owner.name)) | {"uid": owner.uid},
        }
        if action.about is not None:
            body["related"] = _reference(owner, action.about)
        return body


def _reference(owner: Owner, ref: Ref) -> dict[str, str]:
    return {"apiVersion": ref.api_version, "kind": ref.kind, "namespace": owner.namespace, "name": ref.name}


def _micro_time() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
