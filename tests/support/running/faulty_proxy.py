"""A proxy between an operator and the API server that does what a test tells it: count, delay, refuse, cut, garble.

It speaks HTTPS on both sides and forwards the client's own token, so that the API server sees the same user. A fault is
a coroutine that gets the request and answers it, or forwards it and changes what comes back. All methods may be called
from any thread.
"""

from __future__ import annotations

import asyncio
import ssl
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import aiohttp
from aiohttp import web

from support.kube.api import tls_context
from support.kube.control_plane import ControlPlane
from support.kube.credentials import write_kubeconfig

WRITES = ("POST", "PUT", "PATCH", "DELETE")
_HOP = {"host", "connection", "transfer-encoding", "content-length", "content-encoding", "keep-alive"}


@dataclass(frozen=True)
class Call:
    """A request of the operator's."""

    method: str
    path: str
    query: dict[str, str]
    body: bytes
    request: web.Request = field(repr=False)

    @property
    def is_watch(self) -> bool:
        return self.query.get("watch") == "true"

    @property
    def is_lease(self) -> bool:
        return "/leases" in self.path

    @property
    def is_write(self) -> bool:
        """A write of the operator's work: its Lease is not counted."""
        return self.method in WRITES and not self.is_lease


Forward = Callable[[], Awaitable[web.StreamResponse]]
Fault = Callable[[Call, Forward], Awaitable[web.StreamResponse]]
Match = Callable[[Call], bool]
Lines = Callable[[bytes], Awaitable[list[bytes]]]
"""From a line of a watch to what is sent instead of it."""


@dataclass(eq=False)
class Rule:
    """A fault in force.

    Attributes:
        left: how often it still applies; None: for ever.
        count: how often it did.
    """

    match: Match
    fault: Fault
    left: int | None
    count: int = 0


class FaultyProxy:
    """One proxy; ``kubeconfig`` leads through it."""

    def __init__(self, plane: ControlPlane, token: str, folder: Path, name: str = "proxy") -> None:
        self._plane = plane
        self._token = token
        self._folder = folder
        self._name = name
        self._rules: list[Rule] = []
        self._changes: list[tuple[Match, Lines]] = []
        self._delays: list[tuple[Match, float]] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="faulty-proxy", daemon=True)
        self.calls: list[Call] = []
        """All requests so far."""

    def __enter__(self) -> Self:
        self._thread.start()
        self._do(self._start())
        return self

    def __exit__(self, *_: object) -> None:
        self._do(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    # -- what a test says -----------------------------------------------------------------------------------------

    def add(self, match: Match, fault: Fault, times: int | None = None) -> Rule:
        """Requests that match get the fault, ``times`` times; later rules come first."""
        rule = Rule(match, fault, times)
        self._rules.insert(0, rule)
        return rule

    def remove(self, rule: Rule) -> None:
        self._rules.remove(rule)

    def change_watches(self, match: Match, lines: Lines) -> None:
        """Lines of watches that match go through ``lines``, also of those that are under way."""
        self._changes.append((match, lines))

    def delay_watches(self, match: Match, seconds: float) -> None:
        """Each line of watches that match goes through so long after it came, also of those that are under way."""
        self._delays.append((match, seconds))

    def leave_watches(self) -> None:
        """Lines of watches go through as they are, and at once, again."""
        self._changes.clear()
        self._delays.clear()

    def cut_connections(self) -> None:
        """Every connection that is open ends now, in the middle of whatever it carries."""
        self._do(self._cut())

    def writes(self) -> list[Call]:
        return [call for call in self.calls if call.is_write]

    # -- below ----------------------------------------------------------------------------------------------------

    async def _start(self) -> None:
        authority = str(self._plane.authority)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=tls_context(authority), limit=0),
            auto_decompress=False,
            timeout=aiohttp.ClientTimeout(total=None),
        )
        serving = self._plane.serving_certificate(self._name)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(serving.certificate, serving.key)
        app = web.Application(client_max_size=16 * 1024**2)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0, handler_cancellation=True)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=context)
        await site.start()
        self.port: int = self._runner.addresses[0][1]
        self.kubeconfig = write_kubeconfig(
            self._folder / f"{self._name}.kubeconfig",
            f"https://127.0.0.1:{self.port}",
            self._plane.authority,
            {"token": self._token},
        )

    async def _stop(self) -> None:
        await self._cut()
        await self._runner.cleanup()
        await self._session.close()

    async def _cut(self) -> None:
        assert self._runner.server is not None
        for connection in list(self._runner.server.connections):
            if connection.transport is not None:
                connection.transport.abort()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        call = Call(request.method, request.path, dict(request.query), await request.read(), request)
        self.calls.append(call)
        for rule in list(self._rules):
            if rule.left != 0 and rule.match(call):
                rule.count += 1
                if rule.left is not None:
                    rule.left -= 1
                return await rule.fault(call, lambda: self._forward(call))
        return await self._forward(call)

    async def _forward(self, call: Call) -> web.StreamResponse:
        request = call.request
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP}
        url = self._plane.server + request.raw_path
        try:
            async with self._session.request(call.method, url, headers=headers, data=call.body or None) as answer:
                kept = {name: value for name, value in answer.headers.items() if name.lower() not in _HOP}
                if not call.is_watch:
                    return web.Response(status=answer.status, headers=kept, body=await answer.read())
                return await self._stream(call, answer, kept)
        except aiohttp.ClientConnectionError:
            return await reset(call, lambda: self._forward(call))

    async def _stream(self, call: Call, answer: aiohttp.ClientResponse, headers: dict[str, str]) -> web.StreamResponse:
        response = web.StreamResponse(status=answer.status, headers=headers)
        await response.prepare(call.request)
        lines: asyncio.Queue[tuple[float, bytes] | aiohttp.ClientError | None] = asyncio.Queue()
        reading = asyncio.create_task(_read_lines(answer, lines))
        try:
            while (item := await lines.get()) is not None:
                if isinstance(item, aiohttp.ClientError):
                    raise item
                came, line = item
                await asyncio.sleep(came + self._delay(call) - time.monotonic())
                for sent in await self._changed(call, line):
                    await response.write(sent)
        finally:
            reading.cancel()
            # A polite end of TLS waits for the server, and the loop may end before.
            if answer.connection is not None and answer.connection.transport is not None:
                answer.connection.transport.abort()
        await response.write_eof()
        return response

    def _delay(self, call: Call) -> float:
        return max((seconds for match, seconds in self._delays if match(call)), default=0.0)

    async def _changed(self, call: Call, line: bytes) -> list[bytes]:
        for match, lines in self._changes:
            if match(call):
                return await lines(line)
        return [line]

    def _do(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)


async def _read_lines(
    answer: aiohttp.ClientResponse, lines: asyncio.Queue[tuple[float, bytes] | aiohttp.ClientError | None]
) -> None:
    """Puts each line with the time at which it came, then None, or what ended the stream."""
    rest = b""
    try:
        async for chunk in answer.content.iter_any():
            *whole, rest = (rest + chunk).split(b"\n")
            for line in whole:
                lines.put_nowait((time.monotonic(), line + b"\n"))
        lines.put_nowait(None)
    except aiohttp.ClientError as error:
        lines.put_nowait(error)


# -- faults -------------------------------------------------------------------------------------------------------


def answer(status: int, headers: dict[str, str] | None = None, message: str = "the test says so") -> Fault:
    """Answers without the API server's knowledge."""

    async def fault(call: Call, forward: Forward) -> web.StreamResponse:
        body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "code": status}
        return web.json_response(body, status=status, headers=headers)

    return fault


def answer_after(status: int) -> Fault:
    """The API server does what was asked, and somebody before it answers otherwise."""
    told = answer(status)

    async def fault(call: Call, forward: Forward) -> web.StreamResponse:
        await forward()
        return await told(call, forward)

    return fault


async def reset(call: Call, forward: Forward) -> web.StreamResponse:
    """Ends the connection instead of an answer; the API server never heard of the request."""
    assert call.request.transport is not None
    call.request.transport.abort()
    return web.Response(status=500)


async def lose_answer(call: Call, forward: Forward) -> web.StreamResponse:
    """The API server does what was asked, and its answer is lost."""
    await forward()
    return await reset(call, forward)


async def hang(call: Call, forward: Forward) -> web.StreamResponse:
    """Never answers."""
    await asyncio.Event().wait()
    raise AssertionError


async def half(call: Call, forward: Forward) -> web.StreamResponse:
    """The answer's first half, as if it were all of it."""
    whole = await forward()
    assert isinstance(whole, web.Response) and isinstance(whole.body, bytes)
    return web.Response(status=whole.status, body=whole.body[: len(whole.body) // 2], content_type="application/json")
