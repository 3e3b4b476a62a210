"""How a server ends: signals, draining, an engine that ends by itself, addresses that cannot be used."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from stageline_engine.core.errors import ConfigurationError
from stageline_engine.server.app import create_app
from stageline_engine.server.run import listen, serve
from stageline_engine.server.settings import ServerSettings, load_api_keys
from stageline_engine.text.tokenizer import Tokenizer
from support.scripted_engine import ScriptedEngine, tokens

BODY = {"prompt": "hello", "stream": True}


@asynccontextmanager
async def served(
    engine: ScriptedEngine, tokenizer: Tokenizer, drain_timeout: float = 60
) -> AsyncGenerator[tuple[asyncio.Task[int], httpx.AsyncClient], None]:
    listener = listen("127.0.0.1", 0)
    app = create_app(engine, tokenizer, ServerSettings(served_model_name="tiny"))
    task = asyncio.create_task(serve(app, listener, drain_timeout=drain_timeout))
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=60) as client:
        yield task, client


async def test_sigterm_lets_a_stream_finish_before_the_server_ends(tokenizer: Tokenizer) -> None:
    go_on = asyncio.Event()
    engine = ScriptedEngine(lambda prompt, params: [*tokens([70], finish=None), go_on, *tokens([71])])
    async with (
        served(engine, tokenizer) as (task, client),
        client.stream("POST", "/v1/completions", json=BODY) as answer,
    ):
        lines = answer.aiter_lines()
        await anext(lines)
        os.kill(os.getpid(), signal.SIGTERM)
        while (await client.get("/ready")).status_code == 200:
            pass
        assert (await client.post("/v1/completions", json=BODY)).status_code == 503
        go_on.set()
        rest = [line async for line in lines if line]
    assert rest[-1] == "data: [DONE]"
    assert await task == 0


@pytest.mark.parametrize(
    ("numbers", "drain_timeout", "code"),
    [
        ((signal.SIGINT,), 60.0, 130),
        ((signal.SIGTERM, signal.SIGTERM), 60.0, 0),
        ((signal.SIGTERM, signal.SIGINT), 60.0, 0),
        ((signal.SIGTERM,), 0.01, 0),
    ],
    ids=str,
)
async def test_what_does_not_finish_is_told_so(
    tokenizer: Tokenizer, numbers: tuple[signal.Signals, ...], drain_timeout: float, code: int
) -> None:
    engine = ScriptedEngine(lambda prompt, params: [*tokens([70], finish=None), asyncio.Event()])
    async with (
        served(engine, tokenizer, drain_timeout) as (task, client),
        client.stream("POST", "/v1/completions", json=BODY) as answer,
    ):
        lines = answer.aiter_lines()
        await anext(lines)
        for number in numbers:
            os.kill(os.getpid(), number)
            # A signal is noticed at the loop's next turn; two of a kind at once would be one.
            await asyncio.sleep(0)
            await client.get("/health")
        rest = [line async for line in lines if line]
    assert '"code":"draining"' in rest[-1]
    assert await task == code
    assert not engine.is_alive


async def test_the_engine_ends_while_connections_are_cut(tokenizer: Tokenizer) -> None:
    may_end = asyncio.Event()

    class SlowToEnd(ScriptedEngine):
        async def close(self) -> None:
            await super().close()
            await may_end.wait()

    engine = SlowToEnd(lambda prompt, params: [*tokens([70], finish=None), asyncio.Event()])
    async with asyncio.timeout(60), served(engine, tokenizer) as (task, client):
        async with client.stream("POST", "/v1/completions", json=BODY) as answer:
            await anext(answer.aiter_lines())
            os.kill(os.getpid(), signal.SIGINT)
            # The port is closed although the engine is not.
            with pytest.raises(httpx.ConnectError):
                while True:
                    async with httpx.AsyncClient(base_url=client.base_url) as other:
                        await other.get("/health")
        may_end.set()
        assert await task == 130


async def test_an_engine_that_ends_ends_the_server(tokenizer: Tokenizer) -> None:
    engine = ScriptedEngine(lambda prompt, params: tokens([70]))
    async with served(engine, tokenizer) as (task, client):
        assert (await client.get("/health")).status_code == 200
        engine.is_alive = False
        assert await task == 1


def test_a_port_in_use_and_an_unknown_host_are_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigurationError, match=f"--port='127.0.0.1:{port}'"):
            listen("127.0.0.1", port)
    with pytest.raises(ConfigurationError, match="--host"):
        listen("256.256.256.256", 0)


def test_the_port_is_taken_before_anything_is_served() -> None:
    with listen("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(ConfigurationError, match=f"--port='127.0.0.1:{port}'"):
            listen("127.0.0.1", port)


def test_a_key_file_must_hold_a_key(tmp_path: Path) -> None:
    (empty := tmp_path / "keys").write_text("# none yet\n\n")
    for path in (empty, tmp_path / "missing", tmp_path):
        with pytest.raises(ConfigurationError, match="--api-key-file"):
            load_api_keys(path)
