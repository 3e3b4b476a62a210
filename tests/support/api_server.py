"""A real API server on a port chosen by the system, around any engine client, in the test's own event loop."""

from __future__ import annotations

import functools
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import httpx
import openai
from fastapi import FastAPI

from stageline_engine.client.base import EngineClient
from stageline_engine.server.app import create_app
from stageline_engine.server.run import ApiServer, listen
from stageline_engine.server.settings import ServerSettings
from stageline_engine.text.tokenizer import Tokenizer

CHAT: dict[str, object] = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}]}
"""A request that every server here answers."""
COMPLETION: dict[str, object] = {"model": "tiny", "prompt": "hello"}
SETTINGS = ServerSettings(served_model_name="tiny")


class Api:
    """A running server and clients for it."""

    def __init__(self, app: FastAPI, server: ApiServer) -> None:
        self.app = app
        self.server = server
        self.url = f"http://127.0.0.1:{server.port}"
        # No certificates to load: that takes longer than most tests.
        self.http = httpx.AsyncClient(base_url=self.url, timeout=60, verify=False, trust_env=False)

    @functools.cached_property
    def openai(self) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=60)

    async def close(self) -> None:
        await self.http.aclose()
        if "openai" in self.__dict__:
            await self.openai.close()
        await self.server.stop()

    async def events(self, path: str, body: dict[str, object]) -> list[str]:
        """The lines of a stream that carry something."""
        answer = await self.http.post(path, json={**body, "stream": True})
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"].startswith("text/event-stream")
        return [line for line in answer.text.splitlines() if line]

    async def chunks(self, path: str, body: dict[str, object]) -> list[dict[str, object]]:
        """The chunks of a stream that ends as it should."""
        lines = await self.events(path, body)
        assert lines[-1] == "data: [DONE]"
        return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


@asynccontextmanager
async def api_server(
    engine: EngineClient, tokenizer: Tokenizer, settings: ServerSettings = SETTINGS
) -> AsyncGenerator[Api, None]:
    app = create_app(engine, tokenizer, settings)
    server = ApiServer(app, listen("127.0.0.1", 0))
    await server.start()
    api = Api(app, server)
    try:
        yield api
    finally:
        await api.close()


def assert_refused(answer: httpx.Response, status: int, param: str | None, code: str | None = None) -> None:
    """OpenAI's shape of an error, with the field's name in its message."""
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["param"] == param
    if code is not None:
        assert error["code"] == code
    if param is not None:
        assert param in error["message"]
