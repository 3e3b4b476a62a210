"""kopf as a doorbell: one ``on.event`` for each kind, which tells the operator what was seen. Nothing else of kopf is
used: no finalizer, no annotation, no patch, no Event of its own.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any

import kopf

from stageline_operator.kube.config import Login
from stageline_operator.kube.kinds import RESOURCE, Kind
from stageline_operator.runtime.sight import SELECTOR

CHUNK = 100
"""Objects of one chunk of a list: whole bodies, 8 KiB each."""
REQUEST_SECONDS = 20.0
"""Longest that a call may take, and a watch may take to begin."""
IDLE_SECONDS = 0.05
"""After so long without an event of an object kopf's task for it ends; tasks are what kopf needs memory for."""
STREAM_SECONDS = 300
"""The API server ends a watch after so long, and kopf begins the next where it ended."""

Saw = Callable[[Kind, bool, Mapping[str, Any]], None]
GetLogin = Callable[[], Awaitable[Login]]


def registry_of(kinds: tuple[Kind, ...], saw: Saw, login: GetLogin) -> kopf.OperatorRegistry:
    """The handlers: one for each kind, and the one by which kopf logs in.

    Args:
        saw: told of each state: its kind, whether the object was deleted, and its body.
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

    for kind in kinds:
        kopf.on.event(kind.group, kind.version, kind.plural, registry=registry, id=kind.kind)(_listener(kind, saw))
    return registry


def settings_of(kinds: tuple[Kind, ...]) -> kopf.OperatorSettings:
    """kopf's settings: bounded in time and memory, quiet, and patient with an API server that is away."""
    settings = kopf.OperatorSettings()
    settings.scanning.disabled = True  # no right to read namespaces and definitions is needed
    settings.peering.standalone = True
    settings.posting.enabled = False
    settings.networking.request_timeout = REQUEST_SECONDS
    settings.networking.connect_timeout = 5.0
    settings.networking.error_backoffs = _BackOffs()
    settings.watching.server_timeout = STREAM_SECONDS
    settings.watching.connect_timeout = 5.0
    settings.watching.chunk_size = CHUNK
    settings.queueing.idle_timeout = IDLE_SECONDS
    settings.queueing.error_delays = (1, 2, 5, 10, 20, 30)
    settings.persistence.diffbase_storage = _NoDiffs()
    for kind in kinds:
        if kind != RESOURCE:
            settings.watching.label_selectors[kind.group, kind.version, kind.plural] = SELECTOR
    return settings


def quiet_logs() -> None:
    """kopf says at INFO what each event's handler did; only its warnings are of interest."""
    logging.getLogger("kopf").setLevel(logging.WARNING)


def _listener(kind: Kind, saw: Saw) -> Callable[..., Awaitable[None]]:
    async def listen(event: kopf.RawEvent, **_: object) -> None:
        saw(kind, event["type"] == "DELETED", event["object"])

    return listen


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
