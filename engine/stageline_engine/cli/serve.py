"""`stageline serve`: an API server in this process, an engine core and its ranks in others."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shlex
import signal
import socket
from collections.abc import Iterator
from typing import Annotated

import msgspec
import uvloop
from cyclopts import Parameter

from stageline_engine.cli import flags
from stageline_engine.cli.console import Progress, begin_logging, fail
from stageline_engine.cli.last_resort import end_within
from stageline_engine.cli.options import (
    ControlOptions,
    EngineOptions,
    ServerOptions,
    control_config,
    engine_config,
    server_settings,
)
from stageline_engine.client.async_engine import AsyncEngine
from stageline_engine.client.launch import Launch, prepare
from stageline_engine.core.errors import EngineFailedError
from stageline_engine.core.logs import is_json
from stageline_engine.server.app import create_app
from stageline_engine.server.head import BEAT_SECONDS, Head
from stageline_engine.server.open_files import allow_open_files
from stageline_engine.server.run import listen, serve
from stageline_engine.server.settings import ServerSettings
from stageline_engine.server.status import status_port
from stageline_engine.text.tokenizer import Tokenizer

ENGINE_DEFAULTS = EngineOptions()
SERVER_DEFAULTS = ServerOptions()
CONTROL_DEFAULTS = ControlOptions()
INTERRUPTED = 130
"""Exit code of a command that a signal ended before it served."""
LEAVE_SECONDS = 1.5
"""From the end of engine and connections (3 s at most) to the end of the process: together below the promised 5 s."""


def serve_command(
    model: flags.ModelName,
    /,
    *,
    engine: Annotated[EngineOptions, Parameter(name="*")] = ENGINE_DEFAULTS,
    server: Annotated[ServerOptions, Parameter(name="*")] = SERVER_DEFAULTS,
    control: Annotated[ControlOptions, Parameter(name="*")] = CONTROL_DEFAULTS,
) -> int:
    """Serve a model with the OpenAI API."""
    begin_logging(engine.log_level, engine.log_format, "api-server")
    config = engine_config(model, engine, control_config(control, engine.executor, server.host))
    settings = server_settings(server)
    progress = Progress()
    allow_open_files(progress)
    head = Head(config, {"drain_timeout": server.drain_timeout, "metrics_compat": server.metrics_compat})
    with contextlib.closing(listen(server.host, server.port)) as listener, _status(head, server, progress):
        launch = prepare(config, progress)
        head.planned(launch.setup, launch.served_model_name)
        settings = msgspec.structs.replace(settings, served_model_name=launch.served_model_name)
        # Before the long steps, so that a damaged one is told at once.
        tokenizer = Tokenizer(launch.folder.path)
        return uvloop.run(_serve(launch, tokenizer, settings, listener, server, head, progress))


@contextlib.contextmanager
def _status(head: Head, options: ServerOptions, progress: Progress) -> Iterator[None]:
    """The status port, if there is to be one, while the body runs."""
    if options.status_port is None:
        yield
        return
    host = options.status_host or options.host
    with (
        contextlib.closing(listen(host, options.status_port, flags=("--status-host", "--status-port"))) as listener,
        status_port(head, listener),
    ):
        progress(f"status on {_url(host, listener)}/state")
        yield


async def _serve(
    launch: Launch,
    tokenizer: Tokenizer,
    settings: ServerSettings,
    listener: socket.socket,
    options: ServerOptions,
    head: Head,
    progress: Progress,
) -> int:
    beating = asyncio.create_task(_beat(head), name="beat")
    engine = await _start(launch, head, progress)
    if engine is None:
        end_within(LEAVE_SECONDS, INTERRUPTED)
        return INTERRUPTED
    try:
        app = create_app(engine, tokenizer, settings)
        head.serves(app.state.context)
        _announce(launch, options, _url(options.host, listener), progress)
        code = await serve(app, listener, drain_timeout=options.drain_timeout)
        if engine.failure is not None:
            fail(EngineFailedError(engine.failure.message))
            code = engine.failure.exit_code
        end_within(LEAVE_SECONDS, code)
        return code
    finally:
        await engine.close()
        beating.cancel()


async def _beat(head: Head) -> None:
    while True:
        head.beat()
        await asyncio.sleep(BEAT_SECONDS)


async def _start(launch: Launch, head: Head, progress: Progress) -> AsyncEngine | None:
    """The started engine; None when a signal came first (what had started is ended by then)."""
    loop = asyncio.get_running_loop()
    starting = asyncio.create_task(AsyncEngine.start(launch.setup, progress, head.saw))

    def give_up() -> None:
        head.ends()
        starting.cancel()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, give_up)
    try:
        return await starting
    except asyncio.CancelledError:
        return None
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


def _url(host: str, listener: socket.socket) -> str:
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{listener.getsockname()[1]}"


def _announce(launch: Launch, options: ServerOptions, url: str, progress: Progress) -> None:
    name = launch.served_model_name
    key = "" if options.api_key_file is None else '-H "Authorization: Bearer $API_KEY" '
    if is_json():
        progress(f"ready: {name} on {url}")
        return
    progress(f"ready: {name} on {url}. Paste this for an answer:")
    question = {"role": "user", "content": "What is the capital of France?"}
    body = json.dumps({"model": name, "stream": True, "temperature": 0, "messages": [question]})
    print(
        f"curl -sN {url}/v1/chat/completions -H 'Content-Type: application/json' {key}-d {shlex.quote(body)}",
        flush=True,
    )
