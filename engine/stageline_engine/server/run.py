"""Runs an app on a socket with uvicorn: loud failure, drain on SIGTERM, nothing of uvicorn's own signal handling."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Iterator

import uvicorn
from fastapi import FastAPI

from stageline_engine.core.errors import ConfigurationError
from stageline_engine.server.app import begin_draining
from stageline_engine.server.context import ServerContext

CUT_SECONDS = 2
"""What connections that are still open after the drain get before they are cut."""
BACKLOG = 2048
"""Connections that may wait to be accepted."""


def listen(host: str, port: int, *, flags: tuple[str, str] = ("--host", "--port")) -> socket.socket:
    """A socket that listens, so that from here on the port is taken; connections wait until a server accepts them.

    To be called before the long steps of a start: a port in use is then told at once.

    Args:
        host: name or address; ``port`` 0 lets the system choose one.
        flags: what gave host and port, for the error.

    Raises:
        ConfigurationError: the address cannot be used.
    """
    listener: socket.socket | None = None
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE | socket.AI_NUMERICSERV
        )[0]
        listener = socket.socket(family, kind)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        if listener is not None:
            listener.close()
        field, value = (flags[0], host) if isinstance(error, socket.gaierror) else (flags[1], f"{host}:{port}")
        raise ConfigurationError(field, value, f"{error.strerror}: choose another") from error
    return listener


class ApiServer:
    """Uvicorn around an app, for a program that has its own loop and signals. Start it once."""

    def __init__(self, app: FastAPI, listener: socket.socket) -> None:
        self._app = app
        self._listener = listener
        self._uvicorn = _Uvicorn(
            uvicorn.Config(
                app,
                http="httptools",
                ws="none",
                lifespan="on",
                # Its lines go where ours go.
                log_config=None,
                log_level="warning",
                access_log=False,
                server_header=False,
                backlog=BACKLOG,
                timeout_graceful_shutdown=CUT_SECONDS,
            )
        )
        self._task: asyncio.Task[None] | None = None

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self._listener.getsockname()[1])

    async def start(self) -> None:
        """Returns when connections are accepted."""
        self._task = asyncio.create_task(self._uvicorn.serve(sockets=[self._listener]), name="http")
        listening = asyncio.create_task(self._uvicorn.listening.wait())
        await asyncio.wait((listening, self._task), return_when=asyncio.FIRST_COMPLETED)
        listening.cancel()
        if self._task.done():
            self._task.result()

    async def wait(self) -> None:
        """Returns when it has ended."""
        assert self._task is not None
        await asyncio.shield(self._task)

    async def drain(self, most_seconds: float) -> None:
        """Refuse new requests and wait for the running ones, for at most so long."""
        begin_draining(self._app)
        context: ServerContext = self._app.state.context
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(most_seconds):
                await context.engine.drain()
                await context.idle.wait()

    async def stop(self) -> None:
        """Stop accepting, cut what is still open after ``CUT_SECONDS``, and end."""
        self._uvicorn.should_exit = True
        await self.wait()


async def serve(app: FastAPI, listener: socket.socket, *, drain_timeout: float) -> int:
    """Serve until a signal comes or the engine has ended; for the main thread.

    SIGTERM drains for at most ``drain_timeout`` seconds; a second signal, or SIGINT, ends at once. Requests that are
    open even then are ended by closing the engine, so that each of them gets an error and not just silence.

    Returns:
        0 after SIGTERM, 130 after SIGINT, 1 when the engine has ended by itself.
    """
    server = ApiServer(app, listener)
    loop = asyncio.get_running_loop()
    signals: asyncio.Queue[int] = asyncio.Queue()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, signals.put_nowait, int(number))
    ended = asyncio.create_task(_engine_ended(app))
    try:
        await server.start()
        received = await _first(signals, ended)
        if received == signal.SIGTERM:
            drained = asyncio.create_task(server.drain(drain_timeout))
            await _first(signals, ended, drained)
            drained.cancel()
        begin_draining(app)
        context: ServerContext = app.state.context
        # Together, so that the longer of both times is all that it takes.
        await asyncio.gather(context.engine.close(), server.stop())
    finally:
        ended.cancel()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
    if received is None:
        return 1
    return 0 if received == signal.SIGTERM else 130


async def _first(signals: asyncio.Queue[int], *events: asyncio.Task[None]) -> int | None:
    """The signal that came before any of the tasks was done; None when a task was first."""
    signalled = asyncio.create_task(signals.get())
    await asyncio.wait((signalled, *events), return_when=asyncio.FIRST_COMPLETED)
    if signalled.done():
        return signalled.result()
    signalled.cancel()
    return None


async def _engine_ended(app: FastAPI) -> None:
    context: ServerContext = app.state.context
    while context.engine.is_alive:  # noqa: ASYNC110 (an engine tells of its end only when asked)
        await asyncio.sleep(0.2)


class _Uvicorn(uvicorn.Server):
    """Uvicorn without its signal handlers, which would end requests that are to be drained."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Uvicorn's own, and then the word that it is done."""
        await super().startup(sockets)
        self.listening.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to the program."""
        yield
