"""The fake kubelets' way to the API server: asyncio, patient with a server that is away."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import weakref
from collections.abc import AsyncGenerator
from typing import Any

import aiohttp
import msgspec

RETRY_SECONDS = 0.2
REQUEST_SECONDS = 15.0
CLOSE_SECONDS = 5.0
WATCH_LINE_BYTES = 4 * 1024 * 1024
TOO_MANY_REQUESTS = 429

MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"


class Refused(Exception):
    """The API server understood and refused: a 4xx answer other than 429."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status


class FakeClient:
    """Made and used inside one event loop."""

    def __init__(self, server: str, tls: ssl.SSLContext) -> None:
        self._server = server
        self._sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        self._connector = aiohttp.TCPConnector(ssl=tls, limit=16, socket_factory=self._make_socket)
        self._session = aiohttp.ClientSession(
            connector=self._connector,
            headers={"Impersonate-User": "fake-kubelet", "Impersonate-Group": "system:masters"},
            read_bufsize=WATCH_LINE_BYTES,
        )

    async def close(self) -> None:
        """Returns when all connections have ended: one that outlives the event loop is never closed."""
        await self._connector.close(abort_ssl=True)
        await self._session.close()
        # Those of requests that were cancelled end politely, in the background.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                while any(each.fileno() != -1 for each in self._sockets):  # noqa: ASYNC110 - sockets tell nobody
                    await asyncio.sleep(0.01)

    def _make_socket(self, address: aiohttp.AddrInfoType) -> socket.socket:
        made = socket.socket(*address[:3])
        made.setblocking(False)
        self._sockets.add(made)
        return made

    async def request(
        self, method: str, path: str, body: dict[str, Any] | None = None, content_type: str = "application/json"
    ) -> dict[str, Any]:
        """Asks until the server answers; raises Refused when it says no."""
        while True:
            try:
                return await self._once(method, path, body, content_type)
            except (aiohttp.ClientError, TimeoutError):
                await asyncio.sleep(RETRY_SECONDS)

    async def watch(self, path: str, resource_version: str) -> AsyncGenerator[dict[str, Any], None]:
        """The events after ``resource_version``, until the stream ends or breaks (aiohttp.ClientError)."""
        query = {"watch": "1", "resourceVersion": resource_version, "allowWatchBookmarks": "true"}
        patience = aiohttp.ClientTimeout(total=None, sock_connect=REQUEST_SECONDS)
        async with self._session.get(self._server + path, params=query, timeout=patience) as response:
            response.raise_for_status()
            async for line in response.content:
                if not line.endswith(b"\n"):
                    # The stream broke inside an event.
                    return
                yield msgspec.json.decode(line)

    async def _once(self, method: str, path: str, body: dict[str, Any] | None, content_type: str) -> dict[str, Any]:
        async with self._session.request(
            method,
            self._server + path,
            data=msgspec.json.encode(body) if body is not None else None,
            headers={"Content-Type": content_type},
            timeout=aiohttp.ClientTimeout(total=REQUEST_SECONDS),
        ) as response:
            content = await response.read()
            if response.ok:
                return dict(msgspec.json.decode(content))
            if response.status == TOO_MANY_REQUESTS or response.status >= 500:
                raise aiohttp.ClientResponseError(response.request_info, (), status=response.status)
            raise Refused(response.status, content.decode(errors="replace"))
