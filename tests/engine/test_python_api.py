"""The Python API: a blocking LLM over a real engine, its results, its errors, and what it leaves behind."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

import stageline_engine
from stageline_engine import LLM, SamplingParams
from stageline_engine.core.config import SchedulerConfig
from stageline_engine.core.errors import ConfigurationError, InvalidRequestError
from support.tiny_models import parity_prompts, reference_greedy, tiny_model

GUIDE = (Path(__file__).parents[2] / "docs" / "python.md").read_text()


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with LLM(str(tiny_model("llama")), stages=2, threads=1, max_model_len=128, show_progress=False) as running:
        yield running


def test_outputs_come_in_the_order_of_the_prompts(llm: LLM) -> None:
    folder = tiny_model("llama")
    prompts = parity_prompts(folder, (20, 3, 11), 8)
    outputs = llm.generate(prompts, SamplingParams(temperature=0.0, max_tokens=8, ignore_eos=True))
    assert [output.outputs[0].token_ids for output in outputs] == reference_greedy(folder, prompts, 8)
    assert [output.prompt_token_ids for output in outputs] == prompts
    assert {output.outputs[0].finish_reason for output in outputs} == {"length"}


def test_each_prompt_may_have_its_own_parameters(llm: LLM) -> None:
    short, several = SamplingParams(max_tokens=2, ignore_eos=True), SamplingParams(max_tokens=3, ignore_eos=True, n=3)
    first, second = llm.generate(["one", "two"], [short, several])
    assert [len(one.token_ids) for one in first.outputs] == [2]
    assert [len(one.token_ids) for one in second.outputs] == [3, 3, 3]


def test_logprobs_come_with_the_tokens(llm: LLM) -> None:
    params = SamplingParams(temperature=0.0, max_tokens=4, ignore_eos=True, logprobs=2, prompt_logprobs=1)
    (output,) = llm.generate("hello", params)
    assert [len(one.top_ids) for one in output.outputs[0].logprobs] == [2, 2, 2, 2]
    assert len(output.prompt_logprobs) == len(output.prompt_token_ids)
    assert output.prompt_logprobs[0] is None


def test_a_stop_string_ends_the_text_before_it(llm: LLM) -> None:
    greedy = SamplingParams(temperature=0.0, max_tokens=12, ignore_eos=True)
    (whole,) = llm.generate("hello", greedy)
    text = whole.outputs[0].text
    stop = text[3:5]
    (cut,) = llm.generate("hello", SamplingParams(temperature=0.0, max_tokens=12, ignore_eos=True, stop=(stop,)))
    assert cut.outputs[0].text == text[: text.index(stop)]
    assert cut.outputs[0].finish_reason == "stop"


@pytest.mark.parametrize(
    ("prompts", "params", "field"),
    [
        ("x", SamplingParams(temperature=-1.0), "temperature"),
        ("x", [SamplingParams(), SamplingParams()], "params"),
        ([[1] * 500], SamplingParams(), "prompt"),
        ([[999_999]], SamplingParams(), "prompt"),
        ([[-1]], SamplingParams(), "prompt"),
    ],
)
def test_a_wrong_request_names_its_field_and_harms_no_other(
    llm: LLM, prompts: str, params: SamplingParams, field: str
) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        llm.generate(prompts, params)
    assert caught.value.field == field
    assert llm.generate("still here", SamplingParams(max_tokens=1))


def test_more_sequences_than_its_queue_takes_are_no_error() -> None:
    scheduler = SchedulerConfig(max_waiting=2, max_num_seqs=1)
    with LLM(
        str(tiny_model("llama")), threads=1, max_model_len=64, scheduler=scheduler, show_progress=False
    ) as running:
        outputs = running.generate(["hello"] * 8, SamplingParams(max_tokens=2, ignore_eos=True, n=3))
        assert [len(output.outputs) for output in outputs] == [3] * 8
        assert running.generate(["hello"] * 8, SamplingParams(max_tokens=2, ignore_eos=True))


def test_a_wrong_cut_is_refused_before_anything_starts() -> None:
    before = set(psutil.Process().children(recursive=True))
    with pytest.raises(ConfigurationError, match="--stages|--layer-split"):
        LLM(str(tiny_model("llama")), stages=99, show_progress=False)
    assert set(psutil.Process().children(recursive=True)) <= before


def test_closing_ends_every_process() -> None:
    before = set(psutil.Process().children(recursive=True))
    running = LLM(str(tiny_model("llama")), max_model_len=64, threads=1, show_progress=False)
    started = set(psutil.Process().children(recursive=True)) - before
    assert len(started) >= 3
    running.close()
    running.close()
    assert not [process for process in started if process.is_running()]


@pytest.mark.parametrize("number", [0, 1])
def test_the_guides_examples_run(number: int) -> None:
    code = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)[number]
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240)
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout


def test_every_exported_name_can_be_imported() -> None:
    for name in stageline_engine.__all__:
        assert getattr(stageline_engine, name) is not None
