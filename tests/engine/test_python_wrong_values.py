"""What a program gives that no stage can take: refused where it was given, by name, and the engine core lives on."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
import pytest

from stageline_engine import LLM, AsyncEngine, SamplingParams
from stageline_engine.client.launch import prepare
from stageline_engine.core.config import CacheConfig, EngineConfig, ModelConfig, ParallelConfig, SchedulerConfig
from stageline_engine.core.errors import ConfigurationError, InvalidRequestError
from stageline_engine.engine.setup import CoreSetup
from support.tiny_models import VOCAB, tiny_model

NAN, INFINITE = float("nan"), float("inf")
HUGE = 10**5000

PROMPTS: list[Any] = [
    None, 5, 5.0, "text", b"bytes", {5: 6}, [], [VOCAB], [-1], [2**70], [HUGE], [5.0], ["5"], [True], [None], [[5, 6]],
    [5, 6, 7.5], np.array([[5, 6], [7, 8]]), np.array([5.0]), [NAN],
]  # fmt: skip
PARAMETERS: list[tuple[str, Any]] = [
    ("max_tokens", 0), ("max_tokens", 2.0), ("max_tokens", "2"), ("max_tokens", True), ("max_tokens", 2**31),
    ("max_tokens", HUGE), ("temperature", NAN), ("temperature", INFINITE), ("temperature", -0.1), ("temperature", "0"),
    ("temperature", HUGE), ("top_p", 0.0), ("top_p", NAN), ("top_p", 1.1), ("top_k", -2), ("top_k", VOCAB + 1),
    ("top_k", 1.5), ("min_p", NAN), ("min_p", 2), ("presence_penalty", INFINITE), ("frequency_penalty", -3.0),
    ("repetition_penalty", 0), ("repetition_penalty", NAN), ("logit_bias", None), ("logit_bias", {"5": 1.0}),
    ("logit_bias", {5: NAN}), ("logit_bias", {5: "1"}), ("logit_bias", {VOCAB: 1.0}), ("logit_bias", {True: 1.0}),
    ("logit_bias", [5]), ("seed", 2**64), ("seed", 0.5), ("seed", "7"), ("n", 0), ("n", 129), ("n", 10**9), ("n", 2.0),
    ("n", None), ("stop", "text"), ("stop", ("",)), ("stop", (5,)), ("stop", ("\ud800",)), ("stop", ("x",) * 17),
    ("stop_token_ids", (5.0,)), ("stop_token_ids", (VOCAB,)), ("stop_token_ids", ("5",)), ("stop_token_ids", 5),
    ("min_tokens", -1), ("min_tokens", 99), ("min_tokens", 0.5), ("ignore_eos", 1), ("ignore_eos", "yes"),
    ("include_stop_str_in_output", None), ("logprobs", 21), ("logprobs", True), ("prompt_logprobs", -1),
    ("prompt_logprobs", 1.0), ("skip_special_tokens", 0),
]  # fmt: skip
CHOICES: list[Any] = [0, "0", [0.0], ["0"], [None], [True], [-1], [2**70]]
GOOD = SamplingParams(max_tokens=4, temperature=0.0, ignore_eos=True)


def setup() -> CoreSetup:
    config = EngineConfig(
        model=ModelConfig(model=str(tiny_model("llama")), max_model_len=64),
        parallel=ParallelConfig(threads=1),
        cache=CacheConfig(kv_memory=4 * 2**20),
    )
    return prepare(config, lambda line: None).setup


async def refusal(engine: AsyncEngine, request_id: Any, prompt: Any, params: Any) -> InvalidRequestError:
    with pytest.raises(InvalidRequestError) as caught:
        async for _ in engine.generate(request_id, prompt, params):
            pass
    return caught.value


async def answer(engine: AsyncEngine, prompt: Any, request_id: str = "good") -> list[int]:
    return [token async for output in engine.generate(request_id, prompt, GOOD) for token in output.token_ids]


async def test_no_value_of_a_program_ends_the_engine_core() -> None:
    engine = await AsyncEngine.start(setup(), lambda line: None)
    try:
        expected = await answer(engine, [5, 6, 7])
        assert len(expected) == 4
        for prompt in PROMPTS:
            assert (await refusal(engine, "r", prompt, GOOD)).field == "prompt", prompt
        for field, value in PARAMETERS:
            params = msgspec.structs.replace(GOOD, **{field: value})
            assert (await refusal(engine, "r", [5, 6], params)).field == field, value
        for no_params in (None, {}, {"n": 1}, [GOOD]):
            assert (await refusal(engine, "r", [5, 6], no_params)).field == "params"
        for request_id in (None, 5, b"r", ["r"], "\ud800", "a\nb", "x" * 2000):
            assert (await refusal(engine, request_id, [5, 6], GOOD)).field == "request_id"
        for choices in CHOICES:
            with pytest.raises(InvalidRequestError, match="choices"):
                await engine.abort("r", choices)
        assert engine.is_alive
        assert await answer(engine, [5, 6, 7]) == expected
    finally:
        await engine.close()


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with LLM(str(tiny_model("llama")), threads=1, max_model_len=64, show_progress=False) as running:
        yield running


def test_a_wrong_prompt_among_others_is_named(llm: LLM) -> None:
    for prompt in [*PROMPTS, "\ud800"]:
        if not isinstance(prompt, str) or prompt != "text":
            with pytest.raises(InvalidRequestError, match="^prompt="):
                llm.generate([[5, 6], prompt], GOOD)


@pytest.mark.parametrize("prompts", [None, 5, b"text", {"a": 1}, [5, 6, 7], ["a", None], "\ud800"], ids=repr)
def test_prompts_that_are_no_list_of_prompts_are_refused(llm: LLM, prompts: Any) -> None:
    with pytest.raises(InvalidRequestError, match="prompt"):
        llm.generate(prompts, GOOD)


@pytest.mark.parametrize(
    ("params", "told"), [({}, "give SamplingParams"), ({"n": 1}, r"write it as SamplingParams\(n=1\)"), (0, "give")]
)
def test_something_else_than_sampling_parameters_is_named(llm: LLM, params: Any, told: str) -> None:
    with pytest.raises(InvalidRequestError, match=f"^params=.*{told}"):
        llm.generate([[5, 6]], params)


def test_no_prompts_have_no_outputs(llm: LLM) -> None:
    assert llm.generate([], GOOD) == []


def test_numbers_of_numpy_are_token_ids_and_lists_are_sequences(llm: LLM) -> None:
    stops: Any = ["never seen"]
    params = msgspec.structs.replace(GOOD, stop=stops, temperature=0)
    prompts: list[Any] = [[5, 6, 7], np.array([5, 6, 7]), [np.int32(5), np.uint8(6), 7]]
    plain, array, list_of_numpys = llm.generate(prompts, params)
    assert plain.outputs == array.outputs == list_of_numpys.outputs
    assert array.prompt_token_ids == [5, 6, 7]
    assert {type(token) for token in array.prompt_token_ids} == {int}


CACHE: Any = CacheConfig
SCHEDULER: Any = SchedulerConfig


@pytest.mark.parametrize(
    ("flag", "arguments"),
    [
        ("--stages", {"stages": "2"}),
        ("--tp", {"tp": 2.0}),
        ("--tp", {"tp": [1, 1.5]}),
        ("--layer-split", {"layer_split": 5}),
        ("--layer-split", {"layer_split": "2,3"}),
        ("--max-model-len", {"max_model_len": 64.5}),
        ("--seed", {"seed": None}),
        ("--threads", {"threads": True}),
        ("--kv-memory", {"cache": CACHE(kv_memory=4e9)}),
        ("--max-waiting", {"scheduler": SCHEDULER(max_waiting="3")}),
    ],
    ids=str,
)
def test_a_setting_of_a_wrong_type_is_named_before_anything_starts(flag: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=f"^{flag}="):
        LLM(str(tiny_model("llama")), show_progress=False, **arguments)


PARTS: list[tuple[dict[str, Any], str]] = [
    ({"cache": {"block_size": 16}}, "cache={'block_size': 16}: write it as CacheConfig(block_size=16)"),
    ({"cache": {}}, "cache={}: give CacheConfig; its fields are block_size, kv_memory, enable_prefix_caching"),
    ({"cache": {"blocks": 1}}, "cache={'blocks': 1}: give CacheConfig; its fields are block_size"),
    ({"cache": 16}, "cache=16: give CacheConfig"),
    ({"cache": SchedulerConfig()}, "cache=SchedulerConfig("),
    ({"scheduler": CacheConfig}, "scheduler=<class "),
    (
        {"scheduler": {"max_num_seqs": 3, "micro_batches": None}},
        ": write it as SchedulerConfig(max_num_seqs=3, micro_batches=None)",
    ),
]


@pytest.mark.parametrize(("arguments", "told"), PARTS, ids=str)
def test_something_else_than_a_part_of_the_configuration_is_named_before_anything_starts(
    arguments: dict[str, Any], told: str
) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(told)):
        LLM(str(tiny_model("llama")), show_progress=False, **arguments)


def test_something_else_than_a_configuration_is_named() -> None:
    config: Any = EngineConfig
    for wrong, told in [
        ("folder", "config='folder': give EngineConfig"),
        (config(model="folder"), "model='folder': give ModelConfig; its fields are model"),
        (config(model={"model": "folder"}), ": write it as ModelConfig(model='folder')"),
        (config(model=ModelConfig(model="folder"), parallel={"stages": 2}), ": write it as ParallelConfig(stages=2)"),
    ]:
        with pytest.raises(ConfigurationError, match=re.escape(told)):
            prepare(wrong, lambda line: None)


async def test_something_else_than_a_setup_is_named() -> None:
    wrong: Any = EngineConfig(model=ModelConfig(model="folder"))
    with pytest.raises(ConfigurationError, match=r"^setup=EngineConfig\(.*: give the setup of what prepare"):
        await AsyncEngine.start(wrong, lambda line: None)


@pytest.mark.parametrize("seconds", [0, -1.0, NAN, INFINITE])
def test_a_time_limit_is_a_number_of_seconds(seconds: float) -> None:
    config = EngineConfig(model=ModelConfig(model="unread"), hang_timeout=seconds)
    with pytest.raises(ConfigurationError, match="^--hang-timeout="):
        prepare(config, lambda line: None)
