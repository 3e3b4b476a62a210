"""What is refused before a field is looked at: bodies, paths, content types, keys."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from pathlib import Path

import openai
import pytest

from stageline_engine.server import limits
from stageline_engine.server.settings import ServerSettings, load_api_keys
from stageline_engine.text.tokenizer import Tokenizer
from support.api_server import CHAT, COMPLETION, Api, api_server, assert_refused
from support.scripted_engine import ScriptedEngine, tokens


@pytest.fixture
def engine() -> ScriptedEngine:
    return ScriptedEngine(lambda prompt, params: tokens([70, 71]))


@pytest.fixture
async def api(engine: ScriptedEngine, tokenizer: Tokenizer) -> AsyncGenerator[Api, None]:
    settings = ServerSettings(served_model_name="tiny", max_body_bytes=100_000)
    async with api_server(engine, tokenizer, settings) as running:
        yield running


async def test_half_a_surrogate_pair_is_no_text(api: Api) -> None:
    content = b'{"prompt": "\\ud800"}'
    answer = await api.http.post("/v1/completions", content=content, headers={"content-type": "application/json"})
    assert_refused(answer, 400, None, "invalid_json")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b'"x"', b"{}x", b'{"a": NaN}', b"\xff\xfe"])
async def test_bodies_that_are_no_json_objects(api: Api, content: bytes) -> None:
    answer = await api.http.post("/v1/completions", content=content, headers={"content-type": "application/json"})
    assert_refused(answer, 400, None, "invalid_json")


async def test_nesting_is_limited(api: Api) -> None:
    deep: object = 1
    for _ in range(limits.MAX_JSON_DEPTH):
        deep = [deep]
    answer = await api.http.post("/v1/chat/completions", json={**CHAT, "chat_template_kwargs": {"x": deep}})
    assert_refused(answer, 400, None, "too_deep")
    for content in (b"[" * 90_000, b'{"a":' * 15_000):
        answer = await api.http.post("/tokenize", content=content, headers={"content-type": "application/json"})
        assert_refused(answer, 400, None, "too_deep")


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded"])
async def test_other_content_types_are_refused(api: Api, kind: str | None) -> None:
    headers = {} if kind is None else {"content-type": kind}
    answer = await api.http.post("/v1/completions", content=json.dumps(COMPLETION), headers=headers)
    assert_refused(answer, 415, None)


async def test_a_declared_body_that_is_too_large_is_refused_at_once(api: Api) -> None:
    answer = await api.http.post("/v1/completions", json={**COMPLETION, "prompt": "x" * 100_001})
    assert_refused(answer, 413, None, "body_too_large")
    assert answer.headers["connection"] == "close"


async def test_a_chunked_body_is_counted_while_it_arrives(api: Api) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", api.server.port)
    writer.write(
        b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        b"transfer-encoding: chunked\r\n\r\n"
    )
    # No end of the body is ever sent.
    for _ in range(11):
        writer.write(b"2710\r\n" + b" " * 10_000 + b"\r\n")
    await writer.drain()
    assert (await reader.readline()).startswith(b"HTTP/1.1 413")
    writer.close()
    await writer.wait_closed()


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("GET", "/v1/models/other", 404),
        ("GET", "/v1/completions", 405),
        ("DELETE", "/v1/models", 405),
        ("POST", "/health", 405),
    ],
)
async def test_unknown_paths_and_methods_have_the_same_shape(api: Api, method: str, path: str, status: int) -> None:
    answer = await api.http.request(method, path)
    assert answer.status_code == status
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    if status == 405:
        assert answer.headers["allow"]


async def test_keys_are_asked_for_where_the_engine_is(
    engine: ScriptedEngine, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    (file := tmp_path / "keys").write_text("# of the team\nfirst\n\n  second  \n")
    settings = ServerSettings(served_model_name="tiny", api_keys=load_api_keys(file))
    assert settings.api_keys == ("first", "second")
    async with api_server(engine, tokenizer, settings) as api:
        for path in ("/health", "/ready", "/metrics", "/version"):
            assert (await api.http.get(path)).status_code == 200
        for headers in (
            {},
            {"authorization": "Bearer wrong"},
            {"authorization": "first"},
            {"authorization": "Basic first"},
        ):
            assert_refused(await api.http.get("/v1/models", headers=headers), 401, None, "invalid_api_key")
            for path in ("/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize"):
                assert_refused(await api.http.post(path, json={}, headers=headers), 401, None, "invalid_api_key")
        for key in ("first", "second"):
            client = api.openai.with_options(api_key=key)
            assert (await client.completions.create(model="tiny", prompt="x")).choices
        with pytest.raises(openai.AuthenticationError):
            await api.openai.models.list()
