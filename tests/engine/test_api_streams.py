"""Exact token streams through the HTTP API: chunks, stop strings, finish reasons, usage; what reaches the engine."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from stageline_engine.core.messages import SequenceOutput
from stageline_engine.core.request import SamplingParams
from stageline_engine.text.tokenizer import Tokenizer
from support.api_server import CHAT, COMPLETION, Api, api_server
from support.scripted_engine import ANSWER, ScriptedEngine, answering, tokens
from support.tiny_tokenizer import byte_level_tokenizer


@pytest.fixture
def engine(tokenizer: Tokenizer) -> ScriptedEngine:
    return answering(tokenizer)


@pytest.fixture
async def api(engine: ScriptedEngine, tokenizer: Tokenizer) -> AsyncGenerator[Api, None]:
    async with api_server(engine, tokenizer) as running:
        yield running


def content(chunks: list[dict[str, Any]], index: int = 0) -> str:
    return "".join(
        choice["delta"].get("content", "")
        for chunk in chunks
        for choice in chunk["choices"]
        if choice["index"] == index
    )


async def test_chat_chunks_begin_with_the_role_and_end_with_the_reason(api: Api) -> None:
    chunks: list[Any] = await api.chunks("/v1/chat/completions", CHAT)
    assert [chunk["object"] for chunk in chunks] == ["chat.completion.chunk"] * len(chunks)
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert content(chunks) == ANSWER
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * (len(chunks) - 1) + ["stop"]
    assert "usage" not in chunks[0]
    # The broken halves of the emoji were never sent.
    assert not any("\ufffd" in content([chunk]) for chunk in chunks)


async def test_usage_comes_last_when_asked_for(api: Api, tokenizer: Tokenizer) -> None:
    body = {**CHAT, "stream_options": {"include_usage": True}}
    chunks: list[Any] = await api.chunks("/v1/chat/completions", body)
    *others, last = chunks
    assert all(chunk["usage"] is None for chunk in others)
    assert last["choices"] == []
    generated = len(tokenizer.encode(ANSWER)) + 1
    assert last["usage"]["completion_tokens"] == generated
    assert last["usage"]["total_tokens"] == last["usage"]["prompt_tokens"] + generated
    assert last["usage"]["prompt_tokens_details"] == {"cached_tokens": 4}


async def test_continuous_usage_grows(api: Api) -> None:
    body = {**COMPLETION, "stream_options": {"include_usage": True, "continuous_usage_stats": True}}
    chunks: list[Any] = await api.chunks("/v1/completions", body)
    counts = [chunk["usage"]["completion_tokens"] for chunk in chunks]
    assert counts == sorted(counts)
    assert counts[0] == 1


async def test_a_stop_string_ends_the_stream_and_frees_the_engine(api: Api, engine: ScriptedEngine) -> None:
    chunks: list[Any] = await api.chunks("/v1/chat/completions", {**CHAT, "stop": ["France is P", "zebra"]})
    assert content(chunks) == "The capital of "
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert chunks[-1]["choices"][0]["stop_reason"] == "France is P"
    assert len(engine.aborted) == 1


async def test_one_choice_that_meets_its_stop_string_leaves_the_others(
    engine: ScriptedEngine, tokenizer: Tokenizer
) -> None:
    ids = [tokenizer.encode("no end"), tokenizer.encode("STOP it")]
    steps = max(map(len, ids))
    outputs: list[SequenceOutput] = []
    for step in range(steps):
        for choice in (0, 1):
            if step < len(ids[choice]):
                finish = "length" if step == len(ids[choice]) - 1 else None
                outputs += tokens([ids[choice][step]], choice=choice, finish=finish)
    engine.script = lambda prompt, params: outputs
    async with api_server(engine, tokenizer) as api:
        answer = await api.openai.chat.completions.create(
            model="tiny", messages=[{"role": "user", "content": "hi"}], n=2, stop="STOP"
        )
    assert [(one.message.content, one.finish_reason) for one in answer.choices] == [("no end", "length"), ("", "stop")]
    [(request_id, _, _)] = engine.requests
    assert engine.aborted == [(request_id, [1])]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
async def test_all_choices_of_a_request_arrive(api: Api, path: str, stream: bool) -> None:
    body = {**(CHAT if "chat" in path else COMPLETION), "n": 3}
    texts = {}
    if stream:
        chunks: list[Any] = await api.chunks(path, body)
        for index in range(3):
            texts[index] = content(chunks, index) if "chat" in path else _text(chunks, index)
    else:
        whole: Any = (await api.http.post(path, json=body)).json()
        for choice in whole["choices"]:
            texts[choice["index"]] = choice["message"]["content"] if "chat" in path else choice["text"]
        assert whole["usage"]["prompt_tokens_details"]["cached_tokens"] == 4
    assert texts == dict.fromkeys(range(3), ANSWER)


def _text(chunks: list[dict[str, Any]], index: int) -> str:
    return "".join(choice["text"] for chunk in chunks for choice in chunk["choices"] if choice["index"] == index)


@pytest.mark.parametrize("stream", [False, True])
async def test_prompts_of_one_request_keep_their_places(
    api: Api, engine: ScriptedEngine, tokenizer: Tokenizer, stream: bool
) -> None:
    engine.script = lambda prompt, params: [
        output
        for choice in range(params.n)
        for output in tokens([*prompt, *tokenizer.encode(f" {choice}")], choice=choice)
    ]
    body: dict[str, object] = {"prompt": ["one", "two"], "n": 2}
    if stream:
        chunks: list[Any] = await api.chunks("/v1/completions", body)
        texts = [_text(chunks, index) for index in range(4)]
    else:
        whole: Any = (await api.http.post("/v1/completions", json=body)).json()
        texts = [choice["text"] for choice in whole["choices"]]
        assert [choice["index"] for choice in whole["choices"]] == [0, 1, 2, 3]
    assert texts == ["one 0", "one 1", "two 0", "two 1"]


@pytest.mark.parametrize(
    "prompt", ["hello", ["hello"], [75, 76], [[75, 76], [77]], ["a", "b", "c"]], ids=lambda value: str(value)
)
async def test_prompts_may_be_texts_or_token_ids(
    api: Api, engine: ScriptedEngine, tokenizer: Tokenizer, prompt: Any
) -> None:
    answer = await api.openai.completions.create(model="tiny", prompt=prompt)
    lists = prompt if isinstance(prompt, list) and not isinstance(prompt[0], int) else [prompt]
    expected = [one if isinstance(one, list) else tokenizer.encode(one) for one in lists]
    assert [ids for _, ids, _ in engine.requests] == expected
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == sum(map(len, expected))


async def test_the_openai_client_works_untouched(api: Api) -> None:
    models = await api.openai.models.list()
    assert [model.id for model in models.data] == ["tiny"]
    assert (await api.openai.models.retrieve("tiny")).id == "tiny"
    whole = await api.openai.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "hi"}])
    assert whole.choices[0].message.content == ANSWER
    # What came back can be sent back as it is.
    again = await api.openai.chat.completions.create(
        model="tiny",
        messages=[{"role": "user", "content": "hi"}, whole.choices[0].message, {"role": "user", "content": "so?"}],  # type: ignore[list-item]
    )
    assert again.choices[0].finish_reason == "stop"
    text = ""
    async with api.openai.chat.completions.stream(
        model="tiny", messages=[{"role": "user", "content": "hi"}], stream_options={"include_usage": True}
    ) as stream:
        async for event in stream:
            if event.type == "content.delta":
                text += event.delta
        final = await stream.get_final_completion()
    assert text == final.choices[0].message.content == ANSWER
    assert final.usage is not None


async def test_sampling_fields_reach_the_engine(api: Api, engine: ScriptedEngine) -> None:
    fields = {
        "temperature": 0,
        "top_p": 0.5,
        "top_k": -1,
        "min_p": 0.1,
        "presence_penalty": 0.2,
        "frequency_penalty": -0.3,
        "repetition_penalty": 1.1,
        "logit_bias": {"70": -100, "71": 5.5},
        "seed": 7,
        "stop": "never",
        "stop_token_ids": [70],
        "min_tokens": 2,
        "max_tokens": 9,
        "ignore_eos": True,
        "include_stop_str_in_output": True,
        "skip_special_tokens": False,
        "user": "someone",
        "metadata": {"a": "b"},
    }
    for path, body in (("/v1/completions", COMPLETION), ("/v1/chat/completions", CHAT)):
        answer = await api.http.post(path, json={**body, **fields})
        assert answer.status_code == 200, answer.text
        assert engine.requests[-1][2] == SamplingParams(
            max_tokens=9,
            temperature=0.0,
            top_p=0.5,
            top_k=0,
            min_p=0.1,
            presence_penalty=0.2,
            frequency_penalty=-0.3,
            repetition_penalty=1.1,
            logit_bias={70: -100.0, 71: 5.5},
            seed=7,
            stop=("never",),
            stop_token_ids=(70,),
            min_tokens=2,
            ignore_eos=True,
            include_stop_str_in_output=True,
            skip_special_tokens=False,
        )


async def test_defaults_are_those_of_the_openai_api(api: Api, engine: ScriptedEngine) -> None:
    await api.http.post("/v1/completions", json=COMPLETION)
    assert engine.requests[-1][2] == SamplingParams(max_tokens=16)
    await api.http.post("/v1/chat/completions", json={**CHAT, "max_completion_tokens": 3})
    assert engine.requests[-1][2] == SamplingParams(max_tokens=3)
    await api.http.post("/v1/chat/completions", json={**CHAT, "top_p": None, "stop": None, "tools": None})
    assert engine.requests[-1][2] == SamplingParams(max_tokens=None)


async def test_messages_become_the_templates_prompt(api: Api, engine: ScriptedEngine, tokenizer: Tokenizer) -> None:
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]},
        {"role": "assistant", "content": "It is ", "refusal": None, "tool_calls": []},
    ]
    body: dict[str, object] = {
        "messages": messages,
        "add_generation_prompt": False,
        "continue_final_message": True,
        "chat_template_kwargs": {"unused": [1]},
    }
    assert (await api.http.post("/v1/chat/completions", json=body)).status_code == 200
    prompt = tokenizer.decode(engine.requests[-1][1], skip_special_tokens=False)
    assert prompt == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\none\ntwo<|im_end|>\n<|im_start|>assistant\nIt is"
    )


async def test_tokenize_and_detokenize_are_the_servers_own_view(
    api: Api, engine: ScriptedEngine, tokenizer: Tokenizer
) -> None:
    body: dict[str, Any] = {"prompt": "hello 😀", "return_token_strs": True}
    answer: Any = (await api.http.post("/tokenize", json=body)).json()
    ids = tokenizer.encode("hello 😀")
    assert answer["tokens"] == ids
    assert answer["count"] == len(ids)
    assert answer["max_model_len"] == engine.ready.max_model_len
    assert answer["token_strs"] == [tokenizer.token_piece(token) for token in ids]
    back: Any = (await api.http.post("/detokenize", json={"tokens": ids})).json()
    assert back == {"prompt": "hello 😀"}
    await api.http.post("/v1/chat/completions", json=CHAT)
    chat: Any = (await api.http.post("/tokenize", json=CHAT)).json()
    assert chat["tokens"] == engine.requests[-1][1]


async def test_a_model_without_a_template_serves_completions_only(tmp_path: Path, engine: ScriptedEngine) -> None:
    async with api_server(engine, Tokenizer(byte_level_tokenizer(tmp_path, chat_template=None))) as api:
        answer = await api.http.post("/v1/chat/completions", json=CHAT)
        assert answer.status_code == 400
        assert answer.json()["error"]["code"] == "no_chat_template"
        assert (await api.http.post("/v1/completions", json=COMPLETION)).status_code == 200
