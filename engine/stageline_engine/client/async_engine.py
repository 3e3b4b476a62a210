"""An engine core in a process of its own, driven from asyncio: the EngineClient of the server and of the Python API."""

from __future__ import annotations

import asyncio
import shutil
import sys
import time
from collections.abc import AsyncGenerator, Callable, Iterable
from typing import SupportsIndex

import msgspec
import zmq
import zmq.asyncio

from stageline_engine.client.base import RequestTag
from stageline_engine.client.checks import check_choices, checked_request
from stageline_engine.client.open_requests import OpenRequests
from stageline_engine.client.patience import Patience
from stageline_engine.client.readiness import why_not_ready
from stageline_engine.client.socket_folder import SOCKET_NAME, make_socket_folder
from stageline_engine.core.errors import (
    ConfigurationError,
    EngineFailedError,
    EngineStartError,
)
from stageline_engine.core.messages import (
    AbortSequences,
    ChoiceTimes,
    CoreCommand,
    CoreEvent,
    Drain,
    EngineFailed,
    EngineProgress,
    EngineReady,
    EngineStats,
    Outputs,
    PipelineState,
    Rejected,
    SequenceOutput,
    Shutdown,
)
from stageline_engine.core.request import SamplingParams
from stageline_engine.engine.setup import CoreSetup

CLOSE_SECONDS = 3.0
"""A core that has not ended its ranks and itself by then is killed; its ranks die with it. It gives ranks 2 s; the rest
of the promised 5 s is for what comes before and after."""
LAST_WORDS_MILLISECONDS = 1000
"""So long nothing may come from a core that has ended before it counts as silent."""


class AsyncEngine:
    """Starts an engine core process and talks to it over a ZeroMQ socket in a private folder.

    Use :meth:`start`; then :meth:`generate` any number of times concurrently; then :meth:`close`.
    """

    def __init__(self, setup: CoreSetup, told: Callable[[PipelineState], None]) -> None:
        self._folder = make_socket_folder()
        self.setup = msgspec.structs.replace(setup, endpoint=f"ipc://{self._folder / SOCKET_NAME}")
        self._process: asyncio.subprocess.Process | None = None
        self._context = zmq.asyncio.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.linger = 0
        self._socket.sndhwm = self._socket.rcvhwm = 0
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(CoreEvent)
        self._requests = OpenRequests()
        self._ready: EngineReady | None = None
        self._stats: EngineStats | None = None
        self._stats_at = 0.0
        self._told = told
        self._failure: EngineFailed | None = None
        self._closing = False
        self._draining = False
        self._started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.failed = asyncio.Event()
        """Set when the engine has ended although nobody asked it to."""
        self._tasks: list[asyncio.Task[None]] = []

    @classmethod
    async def start(
        cls,
        setup: CoreSetup,
        progress: Callable[[str], None],
        told: Callable[[PipelineState], None] = lambda pipeline: None,
    ) -> AsyncEngine:
        """Start the core and wait until every stage is loaded and warm.

        ``setup.endpoint`` is chosen here. ``progress`` gets a line per long step, ``told`` who runs the stages, at
        every change from the start on.

        Raises:
            ConfigurationError: ``setup`` is something else.
            EngineStartError: a stage did not start, or made no progress in the start limit; nothing is left running.
        """
        if not isinstance(setup, CoreSetup):
            raise ConfigurationError("setup", setup, "give the setup of what prepare(config, progress) returns")
        engine = cls(setup, told)
        # Anew from each line: a model may have to be fetched first, for hours.
        patience = Patience(setup.config.start_timeout)
        try:
            await engine._launch(patience.listening(progress))
            await patience.wait(engine._started)
        except TimeoutError:
            await engine.close()
            raise EngineStartError(
                f"the stages made no progress for --start-timeout={setup.config.start_timeout:g} s: "
                "give a larger one if the model's files are slow to read",
                exit_code=1,
            ) from None
        except BaseException:
            await engine.close()
            raise
        return engine

    @property
    def ready(self) -> EngineReady:
        """Facts of the started engine."""
        assert self._ready is not None
        return self._ready

    @property
    def stats(self) -> EngineStats:
        """The newest state of the core."""
        assert self._stats is not None
        return self._stats

    @property
    def is_alive(self) -> bool:
        """Whether the core runs and has not failed."""
        return self._failure is None and not self._closing

    @property
    def failure(self) -> EngineFailed | None:
        """Why the core ended by itself; None while it runs."""
        return self._failure

    @property
    def pid(self) -> int:
        """Process id of the engine core."""
        assert self._process is not None
        return self._process.pid

    def not_ready_reason(self) -> str | None:
        """None when a token went through all stages within the last 5 s and no step is overdue, else why not."""
        if self._failure is not None:
            return self._failure.message
        if self._stats is None or self._closing:
            return "the engine is not running"
        if self._draining:
            return "the engine is draining"
        return why_not_ready(self._stats, time.monotonic() - self._stats_at)

    async def generate(
        self,
        request_id: str,
        prompt_token_ids: Iterable[SupportsIndex],
        sampling: SamplingParams,
        tag: RequestTag | None = None,
    ) -> AsyncGenerator[SequenceOutput, None]:
        """Outputs of all choices as they come; see :class:`stageline_engine.client.base.EngineClient`."""
        if self._failure is not None:
            raise EngineFailedError(self._failure.message)
        if self._closing:
            raise EngineFailedError("the engine is closed")
        request = checked_request(request_id, prompt_token_ids, sampling, self.setup.profile.vocab_size)
        tag = tag or RequestTag(request_id)
        core_id, queue = self._requests.open(request_id, tag.on_times)
        unfinished = request.sampling.n
        try:
            self._send(
                msgspec.structs.replace(
                    request,
                    request_id=core_id,
                    arrived=time.monotonic(),
                    name=tag.name,
                    traced=tag.on_times is not None,
                )
            )
            while unfinished:
                item = await queue.get()
                if isinstance(item, Exception):
                    unfinished = 0
                    raise item
                unfinished -= item.finish_reason is not None
                yield msgspec.structs.replace(item, request_id=request_id)
        finally:
            self._requests.close(request_id)
            if unfinished and self.is_alive:
                self._send(AbortSequences(core_id))

    async def abort(self, request_id: str, choices: list[int] | None = None) -> None:
        """Free the choices (None: all) of a request; their streams end with finish reason ``abort``."""
        check_choices(choices)
        if self.is_alive and (core_id := self._requests.core_id(request_id)) is not None:
            self._send(AbortSequences(core_id, choices))

    async def drain(self) -> None:
        """Refuse new requests; returns when the running and waiting ones have finished."""
        self._draining = True
        if self.is_alive:
            self._send(Drain())
        await self._requests.all_closed()

    async def close(self) -> None:
        """End the core and its ranks within 3 s; open requests end with EngineFailedError. May be called twice."""
        if self._closing:
            return
        self._closing = True
        self._requests.fail("the engine was closed")
        if self._process is not None and self._process.returncode is None:
            await self._end(self._process)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._socket.close()
        self._context.term()
        shutil.rmtree(self._folder, ignore_errors=True)

    async def _launch(self, progress: Callable[[str], None]) -> None:
        self._socket.bind(self.setup.endpoint)
        self._process = process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "stageline_engine.engine.process",
            stdin=asyncio.subprocess.PIPE,
            # A group of its own, so that Ctrl-C reaches only the launcher, which drains first.
            start_new_session=True,
        )
        assert process.stdin is not None
        process.stdin.write(msgspec.json.encode(self.setup) + b"\n")
        receiving = asyncio.create_task(self._receive(progress), name="engine-events")
        receiving.add_done_callback(self._stopped_receiving)
        self._tasks = [receiving, asyncio.create_task(self._watch(process), name="engine-process")]

    async def _end(self, process: asyncio.subprocess.Process) -> None:
        if self._ready is None:
            # A core that starts does not listen yet, and has nothing to lose; its ranks die with it.
            process.kill()
        self._send(Shutdown())
        if process.stdin is not None:
            process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), CLOSE_SECONDS)
        except TimeoutError:
            process.kill()
            await process.wait()

    def _send(self, command: CoreCommand) -> None:
        # The high-water mark is off, so a send to a running core never waits. To one that is gone it fails, and that
        # the process has ended is told by _watch.
        sent: asyncio.Future[object] = asyncio.ensure_future(
            self._socket.send(self._encoder.encode(command), zmq.NOBLOCK)
        )
        sent.add_done_callback(_forget)

    async def _receive(self, progress: Callable[[str], None]) -> None:
        while True:
            event = self._decoder.decode(await self._socket.recv())
            if isinstance(event, Outputs):
                self._requests.take(event.sequences)
            elif isinstance(event, EngineStats):
                self._stats, self._stats_at = event, time.monotonic()
                if self._ready is not None and not self._started.done():
                    self._started.set_result(None)
            elif isinstance(event, ChoiceTimes):
                self._requests.take_times(event)
            elif isinstance(event, Rejected):
                self._requests.reject(event)
            elif isinstance(event, EngineReady):
                self._ready = event
            elif isinstance(event, PipelineState):
                self._told(event)
            elif isinstance(event, EngineProgress):
                progress(event.message)
            else:
                self._fail(event)

    def _stopped_receiving(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            # Without this, everything that waits for the core would wait for ever.
            self._fail(EngineFailed(message=f"a message of the engine core could not be taken: {error!r}"))

    async def _watch(self, process: asyncio.subprocess.Process) -> None:
        code = await process.wait()
        # Its last words may still be in the socket, or on their way into it.
        while self._failure is None and await self._socket.poll(LAST_WORDS_MILLISECONDS):  # noqa: ASYNC110
            # The receiver's turn.
            await asyncio.sleep(0)
        if not self._closing:
            self._fail(EngineFailed(message=f"the engine core process ended unexpectedly (exit code {code})"))

    def _fail(self, event: EngineFailed) -> None:
        if self._failure is not None:
            return
        self._failure = event
        if not self._started.done():
            self._started.set_exception(EngineStartError(event.message, event.exit_code))
        self._requests.fail(event.message)
        self.failed.set()


def _forget(sent: asyncio.Future[object]) -> None:
    """Take the error of a send, so that asyncio does not report it as lost."""
    if not sent.cancelled():
        sent.exception()
