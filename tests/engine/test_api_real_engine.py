"""The HTTP API in front of a real engine: a tiny random model in two stages, each rank a process."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import openai
import pytest
import pytest_asyncio
import torch

from stageline_engine.client.async_engine import AsyncEngine
from stageline_engine.client.launch import prepare
from stageline_engine.core.config import CacheConfig, EngineConfig, ModelConfig, ParallelConfig
from stageline_engine.text.tokenizer import Tokenizer
from support.api_server import SETTINGS, Api, api_server
from support.tiny_models import EOS, parity_prompts, reference_greedy, reference_logprobs, tiny_model

pytestmark = pytest.mark.asyncio(loop_scope="module")

MAX_MODEL_LEN = 160
NUM_NEW = 12
GREEDY: dict[str, Any] = {"model": "tiny", "temperature": 0, "ignore_eos": True, "skip_special_tokens": False}
"""The random model ends at any time and likes special tokens."""
MESSAGES: list[Any] = [{"role": "user", "content": "hello world, how are you?"}]


@pytest.fixture(scope="module")
def folder() -> Path:
    return tiny_model("llama")


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer(folder)


@pytest.fixture(scope="module")
def prompt(folder: Path) -> list[int]:
    [found] = parity_prompts(folder, [40], NUM_NEW)
    return found


@pytest.fixture(scope="module")
def answer(folder: Path, prompt: list[int]) -> list[int]:
    """The tokens that transformers appends to the prompt."""
    [found] = reference_greedy(folder, [prompt], NUM_NEW)
    return found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api(folder: Path, tokenizer: Tokenizer) -> AsyncGenerator[Api, None]:
    config = EngineConfig(
        model=ModelConfig(model=str(folder), max_model_len=MAX_MODEL_LEN),
        parallel=ParallelConfig(stages=2, threads=1),
        cache=CacheConfig(block_size=8, kv_memory=16 * 2**20),
    )
    engine = await AsyncEngine.start(prepare(config, lambda line: None).setup, lambda line: None)
    try:
        async with api_server(engine, tokenizer, SETTINGS) as running:
            yield running
    finally:
        await engine.close()


async def test_greedy_text_is_that_of_transformers(
    api: Api, tokenizer: Tokenizer, prompt: list[int], answer: list[int]
) -> None:
    body = {**GREEDY, "prompt": prompt, "max_tokens": NUM_NEW}
    expected = tokenizer.decode(answer, skip_special_tokens=False)
    whole: Any = (await api.http.post("/v1/completions", json=body)).json()
    assert whole["choices"][0]["text"] == expected
    assert whole["choices"][0]["finish_reason"] == "length"
    assert whole["usage"]["completion_tokens"] == NUM_NEW
    chunks: list[Any] = await api.chunks("/v1/completions", body)
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == expected


async def test_the_same_prompt_again_finds_its_prefix(api: Api, prompt: list[int]) -> None:
    body = {**GREEDY, "prompt": [*reversed(prompt)], "max_tokens": 2}
    cached = []
    for _ in range(2):
        whole: Any = (await api.http.post("/v1/completions", json=body)).json()
        cached.append(whole["usage"]["prompt_tokens_details"]["cached_tokens"])
    assert cached == [0, len(prompt) - len(prompt) % 8 - (8 if len(prompt) % 8 == 0 else 0)]


async def test_logprobs_are_those_of_transformers(
    api: Api, tokenizer: Tokenizer, folder: Path, prompt: list[int], answer: list[int]
) -> None:
    body = {**GREEDY, "prompt": prompt, "max_tokens": NUM_NEW, "logprobs": 3, "echo": True}
    whole: Any = (await api.http.post("/v1/completions", json=body)).json()
    shown = whole["choices"][0]["logprobs"]
    sequence = [*prompt, *answer]
    [logprobs_TV] = reference_logprobs(folder, [sequence])
    expected = logprobs_TV[range(len(sequence) - 1), sequence[1:]]
    assert shown["token_logprobs"][0] is None
    assert torch.allclose(torch.tensor(shown["token_logprobs"][1:]), expected, atol=1e-4)
    best = logprobs_TV[-2].topk(3).values
    chat_like = sorted(shown["top_logprobs"][-1].values(), reverse=True)[:3]
    assert torch.allclose(torch.tensor(chat_like), best, atol=1e-4)
    assert shown["tokens"] == [tokenizer.token_text(token) for token in sequence]


async def test_a_prompt_alone_can_be_scored(api: Api, prompt: list[int]) -> None:
    body = {**GREEDY, "prompt": prompt, "max_tokens": 0, "logprobs": 0, "echo": True}
    whole: Any = (await api.http.post("/v1/completions", json=body)).json()
    choice = whole["choices"][0]
    assert len(choice["logprobs"]["tokens"]) == len(prompt)
    assert choice["finish_reason"] == "length"
    assert whole["usage"]["completion_tokens"] == 0


async def test_the_openai_client_gets_the_same_answer_in_every_way(api: Api) -> None:
    asked: dict[str, Any] = {"model": "tiny", "messages": MESSAGES, "temperature": 0, "max_tokens": 20}
    whole = (await api.openai.chat.completions.create(**asked)).choices[0]
    streamed, reason = "", None
    async for chunk in await api.openai.chat.completions.create(**asked, stream=True):
        streamed += chunk.choices[0].delta.content or ""
        reason = chunk.choices[0].finish_reason or reason

    def synchronously() -> tuple[str, str]:
        with openai.OpenAI(base_url=f"{api.url}/v1", api_key="none", max_retries=0) as client:
            text = client.chat.completions.create(**asked).choices[0].message.content or ""
            parts = client.chat.completions.create(**asked, stream=True)
            return text, "".join(chunk.choices[0].delta.content or "" for chunk in parts)

    assert {whole.message.content, streamed, *await asyncio.to_thread(synchronously)} == {whole.message.content}
    assert whole.message.content
    assert reason == whole.finish_reason


async def test_a_stop_string_ends_the_text_before_it(
    api: Api, tokenizer: Tokenizer, prompt: list[int], answer: list[int]
) -> None:
    text = tokenizer.decode(answer, skip_special_tokens=False)
    stop = text[len(text) // 2 :][:3]
    for stream in (False, True):
        body = {**GREEDY, "prompt": prompt, "max_tokens": 100, "stop": [stop, "never to be seen"]}
        if stream:
            chunks: list[Any] = await api.chunks("/v1/completions", body)
            choices = [chunk["choices"][0] for chunk in chunks]
        else:
            whole: Any = (await api.http.post("/v1/completions", json=body)).json()
            choices = whole["choices"]
        assert "".join(choice["text"] for choice in choices) == text[: text.index(stop)]
        assert (choices[-1]["finish_reason"], choices[-1]["stop_reason"]) == ("stop", stop)
    await idle(api)


async def test_end_tokens_stop_tokens_and_min_tokens(api: Api, prompt: list[int], answer: list[int]) -> None:
    body = {"prompt": prompt, "temperature": 0, "max_tokens": NUM_NEW}
    ends: Any = (await api.http.post("/v1/completions", json={**body, "logit_bias": {str(EOS): 100}})).json()
    assert ends["choices"][0] | {"logprobs": None} == {
        "index": 0,
        "text": "",
        "logprobs": None,
        "finish_reason": "stop",
        "stop_reason": None,
    }
    assert ends["usage"]["completion_tokens"] == 1
    later = {**body, "logit_bias": {str(EOS): 100}, "min_tokens": 4}
    ends = (await api.http.post("/v1/completions", json=later)).json()
    assert (ends["choices"][0]["finish_reason"], ends["usage"]["completion_tokens"]) == ("stop", 5)
    token = answer[3]
    stops: Any = (await api.http.post("/v1/completions", json={**body, **GREEDY, "stop_token_ids": [token]})).json()
    assert (stops["choices"][0]["finish_reason"], stops["choices"][0]["stop_reason"]) == ("stop", token)
    assert stops["usage"]["completion_tokens"] == answer.index(token) + 1


async def test_choices_differ_and_a_seed_repeats_them(api: Api) -> None:
    asked: dict[str, Any] = {"model": "tiny", "prompt": "hello", "n": 3, "max_tokens": 15, "seed": 5}
    first, second = [
        [choice.text for choice in (await api.openai.completions.create(**asked)).choices] for _ in range(2)
    ]
    assert first == second
    assert len(set(first)) == 3


async def test_without_a_limit_the_models_length_is_one(api: Api) -> None:
    body = {**GREEDY, "messages": MESSAGES}
    whole: Any = (await api.http.post("/v1/chat/completions", json=body)).json()
    assert whole["choices"][0]["finish_reason"] == "length"
    assert whole["usage"]["total_tokens"] == MAX_MODEL_LEN


async def test_what_does_not_fit_is_refused(api: Api) -> None:
    for body in ({"prompt": [1] * MAX_MODEL_LEN}, {"prompt": [1] * 10, "max_tokens": MAX_MODEL_LEN - 9}):
        refused = await api.http.post("/v1/completions", json=body)
        assert refused.status_code == 400
        assert refused.json()["error"]["code"] == "context_length_exceeded"
    fits: Any = (
        await api.http.post("/v1/completions", json={**GREEDY, "prompt": [1] * 10, "max_tokens": MAX_MODEL_LEN - 10})
    ).json()
    assert fits["usage"]["total_tokens"] == MAX_MODEL_LEN


async def test_clients_that_leave_free_the_engine(api: Api) -> None:
    engine: AsyncEngine = api.app.state.context.engine
    num_new = 150
    body = {**GREEDY, "prompt": "hello", "n": 2, "max_tokens": num_new, "stream": True}

    async def stopped() -> int:
        """Steps made, by the first news since now that nothing runs and no block is held."""
        old = engine.stats
        while (
            engine.stats is old
            or engine.stats.num_running + engine.stats.num_waiting
            or engine.stats.num_free_blocks < engine.stats.num_blocks
        ):
            await running(api)
        return engine.stats.steps

    before = engine.stats.steps
    for _ in range(3):
        async with api.http.stream("POST", "/v1/completions", json=body) as stream:
            await anext(stream.aiter_lines())
    assert await stopped() - before < num_new
    waiting = asyncio.create_task(api.http.post("/v1/completions", json={**body, "stream": False}))
    while await running(api) == 0:
        pass
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await stopped()


async def running(api: Api) -> float:
    """Running and waiting sequences, as the metrics have it."""
    text = (await api.http.get("/metrics")).text
    found = re.findall(r"^stageline_num_requests_(?:running|waiting)\{.*\} (\S+)$", text, re.MULTILINE)
    assert len(found) == 2
    return sum(map(float, found))


async def idle(api: Api) -> None:
    while await running(api):
        pass


async def test_many_requests_at_once_do_not_disturb_each_other(
    api: Api, tokenizer: Tokenizer, prompt: list[int], answer: list[int]
) -> None:
    same = {**GREEDY, "prompt": prompt, "max_tokens": NUM_NEW}
    wrong = {**same, "temperature": -1}
    others = {**GREEDY, "prompt": ["one", "two", "three"], "max_tokens": 9, "n": 2, "temperature": 1.5}
    answers, streams = await asyncio.gather(
        asyncio.gather(*(api.http.post("/v1/completions", json=body) for body in [same, wrong, others] * 8)),
        asyncio.gather(*(api.chunks("/v1/completions", body) for body in [same, others] * 4)),
    )
    expected = tokenizer.decode(answer, skip_special_tokens=False)
    assert {reply.json()["choices"][0]["text"] for reply in answers[0::3]} == {expected}
    assert {reply.status_code for reply in answers[1::3]} == {400}
    assert {len(reply.json()["choices"]) for reply in answers[2::3]} == {6}
    for chunks in streams[::2]:
        choices: list[Any] = [chunk["choices"] for chunk in chunks]
        assert "".join(choice["text"] for [choice] in choices) == expected


async def test_ready_while_idle_and_busy(api: Api) -> None:
    busy = asyncio.create_task(api.http.post("/v1/completions", json={**GREEDY, "prompt": "x", "max_tokens": 100}))
    while not busy.done():
        assert (await api.http.get("/ready")).status_code == 200
    assert (await api.http.get("/ready")).status_code == 200


async def test_a_scrape_tells_how_long_choices_waited_and_ran(api: Api, prompt: list[int]) -> None:
    async def totals() -> dict[str, float]:
        text = (await api.http.get("/metrics")).text
        found = re.findall(r'^stageline_(\w+_seconds_(?:count|sum))\{model_name="tiny"\} (\S+)$', text, re.MULTILINE)
        return {name: float(value) for name, value in found}

    before = await totals()
    body = {**GREEDY, "prompt": prompt, "max_tokens": 5, "n": 2}
    assert (await api.http.post("/v1/completions", json=body)).status_code == 200
    after = await totals()
    grown = {name: after[name] - before[name] for name in after}
    for phase in ("queue", "prefill", "decode", "inference"):
        assert grown[f"request_{phase}_time_seconds_count"] == 2
    seconds = {
        phase: grown[f"request_{phase}_time_seconds_sum"] for phase in ("queue", "prefill", "decode", "inference")
    }
    assert min(seconds.values()) > 0
    assert seconds["inference"] == pytest.approx(seconds["prefill"] + seconds["decode"])
    # Both choices lived within the one request.
    assert seconds["queue"] + seconds["inference"] < 2 * grown["e2e_request_latency_seconds_sum"]
