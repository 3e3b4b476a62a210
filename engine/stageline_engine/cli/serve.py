"""`stageline serve`: an API server in this process, an engine core and its ranks in others."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from typing import Annotated

import msgspec
import uvloop
from cyclopts import Parameter

from stageline_engine.cli import flags
from stageline_engine.cli.console import Progress
from stageline_engine.cli.last_resort import end_within
from stageline_engine.cli.options import EngineOptions, ServerOptions, engine_config, server_settings
from stageline_engine.client.async_engine import AsyncEngine
from stageline_engine.client.launch import Launch, prepare
from stageline_engine.core.errors import EngineFailedError
from stageline_engine.core.logs import set_up_logging
from stageline_engine.server.app import create_app
from stageline_engine.server.open_files import allow_open_files
from stageline_engine.server.run import listen, serve
from stageline_engine.server.settings import ServerSettings
from stageline_engine.text.tokenizer import Tokenizer

ENGINE_DEFAULTS = EngineOptions()
SERVER_DEFAULTS = ServerOptions()
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
) -> int:
    """Serve a model with the OpenAI API."""
    config = engine_config(model, engine)
    set_up_logging(config.log_level)
    settings = server_settings(server)
    progress = Progress()
    allow_open_files(progress)
    with contextlib.closing(listen(server.host, server.port)) as listener:
        launch = prepare(config, progress)
        settings = msgspec.structs.replace(settings, served_model_name=launch.served_model_name)
        # Before the long steps, so that a damaged one is told at once.
        tokenizer = Tokenizer(launch.folder.path)
        return uvloop.run(_serve(launch, tokenizer, settings, listener, server, progress))


async def _serve(
    launch: Launch,
    tokenizer: Tokenizer,
    settings: ServerSettings,
    listener: socket.socket,
    options: ServerOptions,
    progress: Progress,
) -> int:
    engine = await _start(launch, progress)
    if engine is None:
        end_within(LEAVE_SECONDS, INTERRUPTED)
        return INTERRUPTED
    try:
        app = create_app(engine, tokenizer, settings)
        _announce(launch, options, listener.getsockname()[1], progress)
        code = await serve(app, listener, drain_timeout=options.drain_timeout)
        if engine.failure is not None:
            raise EngineFailedError(engine.failure.message)
        end_within(LEAVE_SECONDS, code)
        return code
    finally:
        await engine.close()


async def _start(launch: Launch, progress: Progress) -> AsyncEngine | None:
    """The started engine; None when a signal came first (what had started is ended by then)."""
    loop = asyncio.get_running_loop()
    starting = asyncio.create_task(AsyncEngine.start(launch.setup, progress))
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, starting.cancel)
    try:
        return await starting
    except asyncio.CancelledError:
        return None
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


def _announce(launch: Launch, options: ServerOptions, port: int, progress: Progress) -> None:
    host = f"[{options.host}]" if ":" in options.host else options.host
    name = launch.served_model_name
    key = "" if options.api_key_file is None else '-H "Authorization: Bearer $API_KEY" '
    progress(f"ready: {name} on http://{host}:{port}. Paste this for an answer:")
    print(
        f"curl -sN http://{host}:{port}/v1/chat/completions -H 'Content-Type: application/json' {key}"
        f'-d \'{{"model": "{name}", "stream": true, "temperature": 0, '
        '"messages": [{"role": "user", "content": "What is the capital of France?"}]}\'',
        flush=True,
    )
