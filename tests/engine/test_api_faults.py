"""What happens to requests when clients leave, the engine is full, fails or drains, or the server itself errs."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import AsyncGenerator
from typing import Any

import openai
import pytest

from stageline_engine.core.errors import OverloadedError, StageFailedError
from stageline_engine.server import limits
from stageline_engine.server.app import begin_draining
from stageline_engine.server.settings import ServerSettings
from stageline_engine.text.tokenizer import Tokenizer
from support.api_server import CHAT, COMPLETION, Api, api_server
from support.scripted_engine import ScriptedEngine, tokens

ENDPOINTS = pytest.mark.parametrize(
    ("path", "body"), [("/v1/completions", COMPLETION), ("/v1/chat/completions", CHAT)], ids=["completion", "chat"]
)


@pytest.fixture
def engine() -> ScriptedEngine:
    return ScriptedEngine(lambda prompt, params: tokens([70, 71]))


@pytest.fixture
async def api(engine: ScriptedEngine, tokenizer: Tokenizer) -> AsyncGenerator[Api, None]:
    async with api_server(engine, tokenizer) as running:
        yield running


async def send(api: Api, path: str, body: dict[str, object]) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Post on a connection of its own, which the test can cut."""
    reader, writer = await asyncio.open_connection("127.0.0.1", api.server.port)
    content = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n"
    )
    writer.write(head.encode() + content)
    await writer.drain()
    return reader, writer


async def until(condition: Any) -> None:
    """Let the server go on until something holds; the test's own time limit bounds it."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0)


@ENDPOINTS
@pytest.mark.parametrize("num_prompts", [1, 3])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_ends_its_generation(
    api: Api, engine: ScriptedEngine, path: str, body: dict[str, object], stream: bool, num_prompts: int
) -> None:
    never = asyncio.Event()
    engine.script = lambda prompt, params: [*tokens([70, 71], finish=None), never]
    if "prompt" in body:
        body = {**body, "prompt": ["hello"] * num_prompts}
    reader, writer = await send(api, path, {**body, "stream": stream})
    if stream:
        await reader.readuntil(b"data: ")
    else:
        await until(lambda: len(engine.requests) == (num_prompts if "prompt" in body else 1))
    writer.close()
    await until(lambda: len(engine.aborted) == len(engine.requests))
    assert {request_id for request_id, _ in engine.aborted} == {request_id for request_id, _, _ in engine.requests}
    await until(lambda: api.app.state.context.num_open == 0)
    # An answer that was never begun counts as left.
    assert ('code="499"' in (await api.http.get("/metrics")).text) == (not stream)


async def test_leaving_while_the_stream_is_silent_ends_the_generation(api: Api, engine: ScriptedEngine) -> None:
    engine.script = lambda prompt, params: [asyncio.Event()]
    _, writer = await send(api, "/v1/completions", {**COMPLETION, "stream": True})
    await until(lambda: engine.requests)
    writer.close()
    await engine.left.wait()


@ENDPOINTS
@pytest.mark.parametrize("stream", [False, True])
async def test_a_full_queue_is_429_with_a_time_to_try_again(
    api: Api, engine: ScriptedEngine, path: str, body: dict[str, object], stream: bool
) -> None:
    engine.script = lambda prompt, params: [OverloadedError("the queue is full", 7)]
    answer = await api.http.post(path, json={**body, "stream": stream})
    assert answer.status_code == 429
    assert answer.headers["retry-after"] == "7"
    assert answer.json()["error"]["code"] == "overloaded"
    with pytest.raises(openai.RateLimitError):
        await api.openai.completions.create(model="tiny", prompt="x")


async def test_one_refused_prompt_ends_the_others_of_its_request(api: Api, engine: ScriptedEngine) -> None:
    never = asyncio.Event()
    engine.script = lambda prompt, params: [OverloadedError("full", 1)] if prompt == [71] else [never]
    answer = await api.http.post("/v1/completions", json={"prompt": [[70], [71], [72]]})
    assert answer.status_code == 429
    assert len(engine.aborted) == 2


async def test_too_many_open_requests_are_refused_at_the_door(
    api: Api, engine: ScriptedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MAX_OPEN_REQUESTS", 1)
    go_on = asyncio.Event()
    engine.script = lambda prompt, params: [go_on, *tokens([70])]
    first = asyncio.create_task(api.http.post("/v1/completions", json=COMPLETION))
    await until(lambda: engine.requests)
    second = await api.http.post("/v1/completions", json=COMPLETION)
    assert second.status_code == 429
    assert int(second.headers["retry-after"]) > 0
    go_on.set()
    assert (await first).status_code == 200


@ENDPOINTS
@pytest.mark.parametrize("stream", [False, True])
async def test_an_engine_that_fails_before_the_first_token_is_503(
    api: Api, engine: ScriptedEngine, path: str, body: dict[str, object], stream: bool
) -> None:
    engine.script = lambda prompt, params: [StageFailedError(1, 0, "killed", -9, "secret path")]
    answer = await api.http.post(path, json={**body, "stream": stream})
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) > 0
    assert answer.json()["error"]["code"] == "engine_failed"
    assert "secret" not in answer.text


@ENDPOINTS
async def test_an_error_after_the_first_token_is_an_event_and_then_the_end(
    api: Api, engine: ScriptedEngine, path: str, body: dict[str, object]
) -> None:
    engine.script = lambda prompt, params: [*tokens([70], finish=None), StageFailedError(1, 0, "killed", -9)]
    lines = await api.events(path, body)
    assert json.loads(lines[-1].removeprefix("data: "))["error"]["code"] == "engine_failed"
    assert "data: [DONE]" not in lines
    with pytest.raises(openai.APIError, match="engine has failed"):
        async for _ in await api.openai.completions.create(model="tiny", prompt="x", stream=True):
            pass


async def test_an_ended_engine_is_503_at_once_while_probes_answer(api: Api, engine: ScriptedEngine) -> None:
    engine.is_alive, engine.reason = False, "stage 1 died"
    answer = await api.http.post("/v1/completions", json=COMPLETION)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "engine_failed")
    assert (await api.http.get("/health")).status_code == 200
    ready = await api.http.get("/ready")
    assert ready.status_code == 503
    assert ready.json()["error"]["message"] == "stage 1 died"
    assert engine.requests == []


@ENDPOINTS
@pytest.mark.parametrize("stream", [False, True])
async def test_a_mistake_of_the_server_is_a_500_that_tells_nothing_and_harms_nobody(
    api: Api,
    engine: ScriptedEngine,
    caplog: pytest.LogCaptureFixture,
    path: str,
    body: dict[str, object],
    stream: bool,
) -> None:
    go_on = asyncio.Event()
    engine.script = lambda prompt, params: (
        [RuntimeError("a secret of the inside")] if params.seed == 1 else [go_on, *tokens([70])]
    )
    other = asyncio.create_task(api.http.post(path, json=body))
    await until(lambda: engine.requests)
    with caplog.at_level(logging.ERROR):
        answer = await api.http.post(path, json={**body, "stream": stream, "seed": 1}, headers={"x-request-id": "mine"})
    assert answer.status_code == 500
    assert answer.json()["error"]["type"] == "server_error"
    assert "secret" not in answer.text
    assert "mine" in {getattr(record, "request_id", None) for record in caplog.records}
    assert "a secret of the inside" in caplog.text
    go_on.set()
    assert (await other).status_code == 200


async def test_request_ids_are_echoed_or_made(api: Api) -> None:
    for path in ("/health", "/v1/models", "/nothing"):
        assert (await api.http.get(path, headers={"x-request-id": "abc-1"})).headers["x-request-id"] == "abc-1"
    made = {(await api.http.get("/health")).headers["x-request-id"] for _ in range(3)}
    assert len(made) == 3
    long = "x" * (limits.MAX_REQUEST_ID_CHARACTERS + 1)
    for bad in (long, "a b", "<script>"):
        assert (await api.http.get("/health", headers={"x-request-id": bad})).headers["x-request-id"] not in (bad, "")


@ENDPOINTS
async def test_a_silent_stream_sends_comments(
    engine: ScriptedEngine, tokenizer: Tokenizer, path: str, body: dict[str, object]
) -> None:
    first, second = asyncio.Event(), asyncio.Event()
    engine.script = lambda prompt, params: [first, *tokens([70], finish=None), second, *tokens([71])]
    settings = ServerSettings(served_model_name="tiny", keep_alive_seconds=0.05)
    async with (
        api_server(engine, tokenizer, settings) as api,
        api.http.stream("POST", path, json={**body, "stream": True}) as answer,
    ):
        assert answer.status_code == 200
        lines = answer.aiter_lines()
        assert await anext(lines) == ": waiting"
        first.set()
        async for line in lines:
            if line.startswith("data: "):
                break
        async for line in lines:
            if line.startswith(":"):
                break
        second.set()
        rest = [line async for line in lines if line.startswith("data: ")]
        assert rest[-1] == "data: [DONE]"


async def test_a_refusal_after_a_comment_is_an_event(engine: ScriptedEngine, tokenizer: Tokenizer) -> None:
    refuse = asyncio.Event()
    engine.script = lambda prompt, params: [refuse, OverloadedError("full", 1)]
    settings = ServerSettings(served_model_name="tiny", keep_alive_seconds=0.05)
    async with (
        api_server(engine, tokenizer, settings) as api,
        api.http.stream("POST", "/v1/completions", json={**COMPLETION, "stream": True}) as answer,
    ):
        lines = answer.aiter_lines()
        assert await anext(lines) == ": waiting"
        refuse.set()
        rest = [line async for line in lines if line.startswith("data: ")]
    assert json.loads(rest[-1].removeprefix("data: "))["error"]["code"] == "overloaded"


async def test_draining_refuses_new_requests_and_finishes_running_ones(api: Api, engine: ScriptedEngine) -> None:
    go_on = asyncio.Event()
    engine.script = lambda prompt, params: [*tokens([70], finish=None), go_on, *tokens([71])]
    running = asyncio.create_task(api.events("/v1/completions", COMPLETION))
    await until(lambda: engine.requests)
    begin_draining(api.app)
    ready = await api.http.get("/ready")
    assert (ready.status_code, ready.json()["error"]["code"]) == (503, "draining")
    for path, body in (("/v1/completions", COMPLETION), ("/v1/chat/completions", CHAT)):
        refused = await api.http.post(path, json=body)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "draining")
        assert refused.headers["connection"] == "close"
        assert int(refused.headers["retry-after"]) > 0
    assert (await api.http.get("/health")).status_code == 200
    drained = asyncio.create_task(api.server.drain(60))
    go_on.set()
    lines = await running
    assert lines[-1] == "data: [DONE]"
    await drained


async def test_being_refused_by_a_draining_engine_is_503(api: Api, engine: ScriptedEngine) -> None:
    go_on = asyncio.Event()
    engine.script = lambda prompt, params: [go_on, OverloadedError("draining", 1)]
    late = asyncio.create_task(api.http.post("/v1/completions", json=COMPLETION))
    await until(lambda: engine.requests)
    begin_draining(api.app)
    go_on.set()
    assert (await late).json()["error"]["code"] == "draining"


async def test_a_body_that_does_not_arrive_is_given_up(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "BODY_TIMEOUT", 0.05)
    reader, writer = await asyncio.open_connection("127.0.0.1", api.server.port)
    writer.write(
        b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{"
    )
    assert (await reader.readline()).startswith(b"HTTP/1.1 408")
    writer.close()
    await writer.wait_closed()


async def test_a_client_that_leaves_within_its_body_is_no_error(
    api: Api, engine: ScriptedEngine, caplog: pytest.LogCaptureFixture
) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", api.server.port)
    writer.write(
        b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{"
    )
    await until(lambda: api.app.state.context.num_open == 1)
    writer.close()
    await until(lambda: api.app.state.context.num_open == 0)
    assert not caplog.records
    assert engine.requests == []


async def test_long_prompts_are_tokenised_off_the_event_loop(
    api: Api, engine: ScriptedEngine, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: dict[int, str] = {}
    encode = tokenizer.encode

    def watched(text: str, add_special_tokens: bool = True) -> list[int]:
        threads[len(text)] = threading.current_thread().name
        return encode(text[:10], add_special_tokens)

    monkeypatch.setattr(tokenizer, "encode", watched)
    # Tokens of this model are long enough for such a text to fit.
    monkeypatch.setattr(tokenizer, "most_characters_per_token", limits.LONG_TEXT)
    for length in (10, limits.LONG_TEXT):
        answer = await api.http.post("/tokenize", json={"prompt": "x" * length})
        assert answer.status_code == 200
    assert threads[10] == threading.main_thread().name
    assert threads[limits.LONG_TEXT].startswith("text")
