"""kopf as a doorbell: one ``on.event`` for resources, which tells the operator what was seen. Nothing else of kopf is
used: no finalizer, no annotation, no patch, no Event of its own. Children are followed by ``runtime.follow``.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any

import kopf

from stageline_operator.kube.client import REQUEST_SECONDS, STREAM_SECONDS
from stageline_operator.kube.config import Login
from stageline_operator.kube.kinds import RESOURCE

CHUNK = 20
"""Resources of one chunk of a list: kopf has a task for each of them before it asks for the next chunk."""
IDLE_SECONDS = 0.05
"""After so long without an event of an object kopf's task for it ends; tasks are what kopf needs memory for."""

_WATCHING = "kopf._cogs.clients.watching"
_REFUSED = "APIForbiddenError"

Saw = Callable[[bool, Mapping[str, Any]], None]
GetLogin = Callable[[], Awaitable[Login]]


def registry_of(saw: Saw, login: GetLogin) -> kopf.OperatorRegistry:
    """The handlers: one for InferenceDeployments, and the one by which kopf logs in.

    Args:
        saw: told of each state: whether the object was deleted, and its body.
    """
    registry = kopf.OperatorRegistry()

    @kopf.on.login(registry=registry, retries=1)
    async def connect(**_: object) -> kopf.ConnectionInfo:
        found = await login()
        return kopf.ConnectionInfo(
            server=found.server,
            ca_path=found.authority,
            certificate_path=found.certificate,
            private_key_path=found.key,
            token=found.token,
            insecure=found.insecure,
            proxy_url=found.proxy,
        )

    @kopf.on.event(RESOURCE.group, RESOURCE.version, RESOURCE.plural, registry=registry)
    async def listen(event: kopf.RawEvent, **_: object) -> None:
        saw(event["type"] == "DELETED", event["object"])

    return registry


def settings() -> kopf.OperatorSettings:
    """kopf's settings: bounded in time and memory, quiet, and patient with an API server that is away."""
    chosen = kopf.OperatorSettings()
    chosen.scanning.disabled = True  # no right to read namespaces and definitions is needed
    chosen.peering.standalone = True
    chosen.posting.enabled = False
    chosen.networking.request_timeout = REQUEST_SECONDS
    chosen.networking.connect_timeout = 5.0
    chosen.networking.error_backoffs = _BackOffs()
    chosen.watching.server_timeout = STREAM_SECONDS
    chosen.watching.connect_timeout = 5.0
    chosen.watching.chunk_size = CHUNK
    chosen.queueing.idle_timeout = IDLE_SECONDS
    chosen.queueing.error_delays = (1, 2, 5, 10, 20, 30)
    chosen.persistence.diffbase_storage = _NoDiffs()
    return chosen


def quiet_logs() -> None:
    """kopf says at INFO what each event's handler did; only its warnings are of interest. Of a list that is refused it
    complains with each of its tries, which never end: ``runtime.namespaces`` says it once."""
    logging.getLogger("kopf").setLevel(logging.WARNING)
    logging.getLogger(_WATCHING).addFilter(lambda record: _REFUSED not in record.getMessage())


class _BackOffs:
    """Seconds between tries of a call that fails; for ever, since an API server that is away comes back."""

    def __iter__(self) -> Iterator[float]:
        yield from (0.5, 1, 2)
        while True:
            yield 5


class _NoDiffs(kopf.DiffBaseStorage):
    """kopf copies each body to compare it with the one before, for handlers that we do not have."""

    def build(self, **_: object) -> kopf.BodyEssence:
        return kopf.BodyEssence()

    def fetch(self, **_: object) -> None:
        return None

    def store(self, **_: object) -> None:
        raise AssertionError("nothing is ever written by kopf")
