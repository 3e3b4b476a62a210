"""What the API refuses, before the engine hears of it, and how: status, OpenAI's error shape, the field's name."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
import pytest_asyncio

from stageline_engine.core.errors import InvalidRequestError
from stageline_engine.server import limits
from stageline_engine.server.settings import ServerSettings
from stageline_engine.text.tokenizer import Tokenizer
from support.api_server import CHAT, COMPLETION, Api, api_server, assert_refused
from support.scripted_engine import ScriptedEngine, tokens
from support.tiny_tokenizer import byte_level_tokenizer

pytestmark = pytest.mark.asyncio(loop_scope="module")

MESSAGE: dict[str, object] = {"role": "user", "content": "hello"}


@pytest.fixture(scope="module")
def shared_engine() -> ScriptedEngine:
    return ScriptedEngine(lambda prompt, params: tokens([70, 71]))


@pytest.fixture
def engine(shared_engine: ScriptedEngine) -> ScriptedEngine:
    """As new for each test, behind the module's one server."""
    shared_engine.script = lambda prompt, params: tokens([70, 71])
    shared_engine.requests.clear()
    return shared_engine


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api(shared_engine: ScriptedEngine, tokenizer: Tokenizer) -> AsyncGenerator[Api, None]:
    settings = ServerSettings(served_model_name="tiny", max_body_bytes=100_000)
    async with api_server(shared_engine, tokenizer, settings) as running:
        yield running


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"temperature": "abc"}, "temperature", "invalid_value"),
        ({"temperature": 2.5}, "temperature", "invalid_value"),
        ({"temperature": True}, "temperature", "invalid_value"),
        ({"n": 0}, "n", "invalid_value"),
        ({"n": 129}, "n", "invalid_value"),
        ({"n": 1.5}, "n", "invalid_value"),
        ({"max_tokens": 0}, "max_tokens", "invalid_value"),
        ({"max_tokens": -1}, "max_tokens", "invalid_value"),
        ({"max_tokens": 2**70}, "max_tokens", "invalid_value"),
        ({"min_tokens": 5, "max_tokens": 3}, "min_tokens", "invalid_value"),
        ({"top_p": 0}, "top_p", "invalid_value"),
        ({"top_k": 10**9}, "top_k", "invalid_value"),
        ({"min_p": 1.1}, "min_p", "invalid_value"),
        ({"repetition_penalty": 0}, "repetition_penalty", "invalid_value"),
        ({"seed": 2**63}, "seed", "invalid_value"),
        ({"seed": 10**400}, "seed", "invalid_value"),
        ({"max_tokens": 10**400}, "max_tokens", "invalid_value"),
        ({"stop": ""}, "stop[0]", "invalid_value"),
        ({"stop": [""]}, "stop[0]", "invalid_value"),
        ({"stop": [3]}, "stop[0]", "invalid_value"),
        ({"stop": ["x"] * 17}, "stop", "invalid_value"),
        ({"stop": "x" * (limits.MAX_STOP_CHARACTERS + 1)}, "stop[0]", "invalid_value"),
        ({"stop_token_ids": [424]}, "stop_token_ids", "invalid_value"),
        ({"stop_token_ids": list(range(17))}, "stop_token_ids", "invalid_value"),
        ({"logit_bias": {"x": 1}}, "logit_bias", "invalid_value"),
        ({"logit_bias": {"424": 1}}, "logit_bias", "invalid_value"),
        ({"logit_bias": {"1": 101}}, "logit_bias", "invalid_value"),
        ({"logit_bias": {str(i): 1 for i in range(1025)}}, "logit_bias", "invalid_value"),
        ({"logit_bias": {"1_0": 1}}, "logit_bias", "invalid_value"),
        ({"metadata": {str(i): "x" for i in range(17)}}, "metadata", "invalid_value"),
        ({"metadata": {"x": 1}}, "metadata.x", "invalid_value"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "invalid_value"),
        ({"stream": True, "stream_options": {"x": 1}}, "stream_options.x", "unknown_field"),
        ({"stream": True, "prompt_logprobs": 1}, "prompt_logprobs", "invalid_value"),
        ({"stream": "yes"}, "stream", "invalid_value"),
        ({"store": True}, "store", "unsupported_field"),
        ({"service_tier": "flex"}, "service_tier", "unsupported_field"),
        ({"use_beam_search": False}, "use_beam_search", "unknown_field"),
        ({"guided_json": {}}, "guided_json", "unknown_field"),
        ({"model": "other"}, "model", "model_not_found"),
        ({"model": 3}, "model", "invalid_value"),
    ],
    ids=lambda value: str(value)[:40],
)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
async def test_wrong_fields_are_named(
    api: Api, engine: ScriptedEngine, path: str, fields: dict[str, object], param: str, code: str
) -> None:
    body = {**(CHAT if "chat" in path else COMPLETION), **fields}
    assert_refused(await api.http.post(path, json=body), 404 if code == "model_not_found" else 400, param, code)
    assert engine.requests == []


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"tools": [{"type": "function"}]}, "tools", "unsupported_field"),
        ({"tool_choice": "required"}, "tool_choice", "unsupported_field"),
        ({"functions": [{}]}, "functions", "unsupported_field"),
        ({"response_format": {"type": "json_object"}}, "response_format", "unsupported_field"),
        ({"modalities": ["text", "audio"]}, "modalities", "unsupported_field"),
        ({"audio": {"voice": "x"}}, "audio", "unsupported_field"),
        ({"reasoning_effort": "high"}, "reasoning_effort", "unsupported_field"),
        ({"messages": []}, "messages", "invalid_value"),
        ({"messages": "hello"}, "messages", "invalid_value"),
        ({"messages": [MESSAGE] * (limits.MAX_MESSAGES + 1)}, "messages", "invalid_value"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role", "invalid_value"),
        ({"messages": [MESSAGE, {"role": "user"}]}, "messages[1].content", "missing_field"),
        ({"messages": [{**MESSAGE, "content": None}]}, "messages[0].content", "invalid_value"),
        ({"messages": [{**MESSAGE, "x": 1}]}, "messages[0].x", "unknown_field"),
        ({"messages": [{**MESSAGE, "tool_calls": [{}]}]}, "messages[0].tool_calls", "unsupported_field"),
        (
            {"messages": [{**MESSAGE, "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "messages[0].content",
            "invalid_value",
        ),
        ({"messages": [{**MESSAGE, "content": [{"type": "text"}]}]}, "messages[0].content", "invalid_value"),
        (
            {"messages": [{**MESSAGE, "content": [{"type": "text", "text": ""}] * 257}]},
            "messages[0].content",
            "invalid_value",
        ),
        ({"top_logprobs": 3}, "top_logprobs", "invalid_value"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "invalid_value"),
        ({"logprobs": 1}, "logprobs", "invalid_value"),
        ({"max_tokens": 3, "max_completion_tokens": 3}, "max_tokens", "invalid_value"),
        ({"max_completion_tokens": 0}, "max_completion_tokens", "invalid_value"),
        ({"continue_final_message": True}, "continue_final_message", "invalid_value"),
        ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs.messages", "invalid_value"),
        ({"chat_template": "{{ 1 }}"}, "chat_template", "unknown_field"),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_what_a_chat_cannot_have(
    api: Api, engine: ScriptedEngine, fields: dict[str, object], param: str, code: str
) -> None:
    assert_refused(await api.http.post("/v1/chat/completions", json={**CHAT, **fields}), 400, param, code)
    assert engine.requests == []


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"suffix": "x"}, "suffix", "unsupported_field"),
        ({"best_of": 2}, "best_of", "unsupported_field"),
        ({"logprobs": 21}, "logprobs", "invalid_value"),
        ({"logprobs": True}, "logprobs", "invalid_value"),
        ({"prompt": []}, "prompt", "invalid_value"),
        ({"prompt": ""}, "prompt", "invalid_value"),
        ({"prompt": None}, "prompt", "invalid_value"),
        ({"prompt": [1, "x"]}, "prompt", "invalid_value"),
        ({"prompt": [[1], []]}, "prompt", "invalid_value"),
        ({"prompt": [True]}, "prompt", "invalid_value"),
        ({"prompt": [-1]}, "prompt", "invalid_value"),
        ({"prompt": [424]}, "prompt", "invalid_value"),
        ({"prompt": [2**80]}, "prompt", "invalid_value"),
        ({"prompt": ["x"] * (limits.MAX_PROMPTS + 1)}, "prompt", "invalid_value"),
        ({"prompt": ["x"] * 100, "n": 3}, "n", "invalid_value"),
        ({"prompt": [5] * 300}, "prompt", "context_length_exceeded"),
        ({"prompt": [5] * 250}, "prompt", "context_length_exceeded"),
        ({"prompt": "x" * 50_000}, "prompt", "context_length_exceeded"),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_what_a_completion_cannot_have(
    api: Api, engine: ScriptedEngine, fields: dict[str, object], param: str, code: str
) -> None:
    assert_refused(await api.http.post("/v1/completions", json={**COMPLETION, **fields}), 400, param, code)
    assert engine.requests == []


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": None, "functions": [], "tool_choice": "none", "parallel_tool_calls": True},
        {"response_format": {"type": "text"}, "modalities": ["text"], "audio": None},
        {"service_tier": "auto", "store": False, "user": "x", "safety_identifier": "x", "prompt_cache_key": "x"},
        {"n": None, "temperature": None, "logprobs": None, "stream_options": None, "stream": None},
    ],
    ids=str,
)
async def test_fields_that_ask_for_nothing_are_let_in(api: Api, fields: dict[str, object]) -> None:
    answer = await api.http.post("/v1/chat/completions", json={**CHAT, **fields})
    assert answer.status_code == 200, answer.text


async def test_a_prompt_that_cannot_fit_is_refused_without_being_tokenised(
    api: Api, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(text: str, add_special_tokens: bool = True) -> list[int]:
        raise AssertionError(f"tokenised {len(text)} characters")

    monkeypatch.setattr(tokenizer, "encode", fail)
    body = {**COMPLETION, "prompt": ["short", "x" * 50_000]}
    assert_refused(await api.http.post("/v1/completions", json=body), 400, "prompt", "context_length_exceeded")


async def test_a_text_that_cannot_fit_is_not_tokenised_for_its_ids_either(
    api: Api, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(text: str, add_special_tokens: bool = True) -> list[int]:
        raise AssertionError(f"tokenised {len(text)} characters")

    monkeypatch.setattr(tokenizer, "encode", fail)
    answer = await api.http.post("/tokenize", json={"prompt": "x" * 50_000})
    assert_refused(answer, 400, "prompt", "context_length_exceeded")


async def test_ids_that_only_the_tokenizer_has_never_reach_the_engine(engine: ScriptedEngine, tmp_path: Path) -> None:
    folder, last, text = byte_level_tokenizer(tmp_path), 400, "<image>"
    (folder / "special_tokens_map.json").write_text(json.dumps({"mask_token": text}))
    (folder / "config.json").write_text(json.dumps({"vocab_size": last}))
    small = Tokenizer(folder)
    assert small.encode(text) == [last]
    async with api_server(engine, small) as api:
        for fields, param in (
            ({"prompt": [last]}, "prompt"),
            ({"prompt": text}, "prompt"),
            ({"logit_bias": {str(last): 1}}, "logit_bias"),
            ({"stop_token_ids": [last]}, "stop_token_ids"),
        ):
            answer = await api.http.post("/v1/completions", json={**COMPLETION, **fields})
            assert_refused(answer, 400, param, "invalid_value")
        assert (await api.http.post("/detokenize", json={"tokens": [last]})).json() == {"prompt": text}
    assert engine.requests == []


async def test_detokenize_takes_so_many_ids_and_no_more(engine: ScriptedEngine, tokenizer: Tokenizer) -> None:
    async with api_server(engine, tokenizer) as api:
        answer = await api.http.post("/detokenize", json={"tokens": [5] * (limits.MAX_DETOKENIZE_TOKENS + 1)})
    assert_refused(answer, 400, "tokens", "invalid_value")


async def test_the_engines_own_refusal_keeps_its_field(api: Api, engine: ScriptedEngine) -> None:
    engine.script = lambda prompt, params: [InvalidRequestError("prompt", "300 tokens", "give fewer")]
    assert_refused(await api.http.post("/v1/completions", json=COMPLETION), 400, "prompt")
    assert_refused(await api.http.post("/v1/completions", json={**COMPLETION, "stream": True}), 400, "prompt")


@pytest.mark.parametrize(
    "body",
    [
        {"prompt": "hello", **{f"field{index}": index for index in range(5_000)}},
        {"prompt": "hello", "stop": [3] * 20_000},
        {"prompt": "hello", "stop_token_ids": ["x"] * 20_000},
        {"prompt": "hello", "logit_bias": {str(index): "x" for index in range(5_000)}},
        {"prompt": ["x", *[3] * 30_000]},
    ],
    ids=["fields", "stop", "stop_token_ids", "logit_bias", "prompt"],
)
async def test_thousands_of_mistakes_are_one_short_answer(api: Api, body: dict[str, object]) -> None:
    answer = await api.http.post("/v1/completions", json=body)
    assert answer.status_code == 400
    assert len(answer.content) < 1000


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": 3}, "prompt"),
        ("/tokenize", {"prompt": "x", "y": 1}, "y"),
        ("/tokenize", {"messages": []}, "messages"),
        ("/detokenize", {"tokens": [424]}, "tokens"),
        ("/detokenize", {"tokens": [-1]}, "tokens[0]"),
        ("/detokenize", {"tokens": "x"}, "tokens"),
    ],
)
async def test_wrong_tokenize_requests(api: Api, path: str, body: dict[str, object], param: str) -> None:
    assert_refused(await api.http.post(path, json=body), 400, param)
