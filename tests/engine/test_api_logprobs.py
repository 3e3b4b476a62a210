"""Log probabilities through the HTTP API: of answers and of prompts, and prompts that are echoed."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from typing import Any

import pytest

from stageline_engine.core.messages import SequenceOutput
from stageline_engine.core.request import SamplingParams
from stageline_engine.text.tokenizer import Tokenizer
from support.api_server import CHAT, Api, api_server
from support.scripted_engine import ANSWER, Script, ScriptedEngine, answering, logprobs, tokens


@pytest.fixture
def engine(tokenizer: Tokenizer) -> ScriptedEngine:
    return answering(tokenizer)


@pytest.fixture
async def api(engine: ScriptedEngine, tokenizer: Tokenizer) -> AsyncGenerator[Api, None]:
    async with api_server(engine, tokenizer) as running:
        yield running


async def test_chat_logprobs_name_tokens_bytes_and_alternatives(api: Api) -> None:
    answer = await api.openai.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": "hi"}], logprobs=True, top_logprobs=2
    )
    shown = answer.choices[0].logprobs
    assert shown is not None
    assert shown.content is not None
    joined = b"".join(bytes(token.bytes or []) for token in shown.content)
    assert joined.decode() == ANSWER + "<|im_end|>"
    assert [len(token.top_logprobs) for token in shown.content] == [2] * len(shown.content)
    assert shown.content[0].top_logprobs[0].token == shown.content[0].token == "The"
    assert shown.content[0].logprob == -0.25


async def test_streamed_chat_logprobs_come_with_their_text(api: Api) -> None:
    chunks: list[Any] = await api.chunks("/v1/chat/completions", {**CHAT, "logprobs": True, "stop": "Paris"})
    shown = ""
    joined = b""
    for chunk in chunks:
        choice = chunk["choices"][0]
        shown += choice["delta"].get("content", "")
        joined += b"".join(bytes(token["bytes"]) for token in (choice["logprobs"] or {"content": []})["content"])
        assert shown.encode().startswith(joined)
    assert shown == "The capital of France is "
    assert joined == b"The capital of France is"


async def test_completion_logprobs_point_into_the_text(api: Api) -> None:
    answer = await api.openai.completions.create(model="tiny", prompt="hi", logprobs=1)
    choice = answer.choices[0]
    shown = choice.logprobs
    assert shown is not None
    assert shown.tokens is not None
    assert shown.text_offset is not None
    assert shown.top_logprobs is not None
    for token, offset in zip(shown.tokens, shown.text_offset, strict=True):
        if not token.startswith(("bytes:", "<|")):
            assert choice.text[offset:].startswith(token)
    assert shown.top_logprobs[0] == {"The": -0.25}


async def test_minus_infinity_has_a_number(api: Api, engine: ScriptedEngine) -> None:
    engine.script = lambda prompt, params: [
        SequenceOutput("", 0, [70], [logprobs(float("-inf"), 9, [(65, float("nan"))])], finish_reason="length")
    ]
    answer: Any = (
        await api.http.post("/v1/chat/completions", json={**CHAT, "logprobs": True, "top_logprobs": 1})
    ).json()
    token = answer["choices"][0]["logprobs"]["content"][0]
    assert token["logprob"] == token["top_logprobs"][0]["logprob"] == -9999.0


def echoing(tokenizer: Tokenizer) -> Callable[[list[int], SamplingParams], Script]:
    """Gives prompt log probabilities when asked for, and the letters ``ok``."""

    def script(prompt: list[int], params: SamplingParams) -> Script:
        of_prompt = [None, *(logprobs(-1.0, 3, [(65, -0.1)]) for _ in prompt[1:])]
        with_prompt = [] if params.prompt_logprobs is None else of_prompt
        if params.max_tokens == 0:
            return [SequenceOutput("", 0, [], finish_reason="length", prompt_logprobs=with_prompt)]
        first, *rest = tokens(tokenizer.encode("ok"), with_logprobs=params.logprobs is not None)
        first = SequenceOutput("", 0, first.token_ids, first.logprobs, first.finish_reason, None, 0, with_prompt)
        return [first, *rest]

    return script


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("wants_logprobs", [False, True])
@pytest.mark.parametrize("max_tokens", [0, 5])
async def test_echo_puts_the_prompt_first(
    api: Api, engine: ScriptedEngine, tokenizer: Tokenizer, stream: bool, wants_logprobs: bool, max_tokens: int
) -> None:
    engine.script = echoing(tokenizer)
    prompt = "one two 😀 "
    body: dict[str, object] = {"prompt": prompt, "echo": True, "max_tokens": max_tokens}
    if wants_logprobs:
        body["logprobs"] = 0
    if stream:
        choices = [chunk["choices"][0] for chunk in await api.chunks("/v1/completions", body)]  # type: ignore[index]
    else:
        answer: Any = (await api.http.post("/v1/completions", json=body)).json()
        choices = answer["choices"]
    text = "".join(choice["text"] for choice in choices)
    assert text == prompt + ("ok" if max_tokens else "")
    assert choices[-1]["finish_reason"] == "length"
    if not wants_logprobs:
        assert all(choice["logprobs"] is None for choice in choices)
        return
    shown = [choice["logprobs"] for choice in choices if choice["logprobs"] is not None]
    token_texts = [token for one in shown for token in one["tokens"]]
    offsets = [offset for one in shown for offset in one["text_offset"]]
    values = [value for one in shown for value in one["token_logprobs"]]
    assert values[0] is None
    assert None not in values[1:]
    assert len(token_texts) == len(tokenizer.encode(prompt)) + (len(tokenizer.encode("ok")) if max_tokens else 0)
    assert all(
        text[offset:].startswith(token)
        for token, offset in zip(token_texts, offsets, strict=True)
        if not token.startswith("bytes:")
    )


async def test_prompt_logprobs_are_given_by_token_id(api: Api, engine: ScriptedEngine, tokenizer: Tokenizer) -> None:
    engine.script = echoing(tokenizer)
    for path, body in (("/v1/completions", {"prompt": [70, 71]}), ("/v1/chat/completions", CHAT)):
        answer: Any = (await api.http.post(path, json={**body, "prompt_logprobs": 1})).json()
        shown = answer["prompt_logprobs"] if "chat" in path else answer["choices"][0]["prompt_logprobs"]
        assert shown[0] is None
        prompt = engine.requests[-1][1]
        assert set(shown[1]) == {str(prompt[1]), "65"}
        assert shown[1][str(prompt[1])] == {
            "logprob": -1.0,
            "rank": 3,
            "decoded_token": tokenizer.token_text(prompt[1]),
        }
