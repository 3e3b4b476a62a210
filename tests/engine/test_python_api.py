"""The Python API: a blocking LLM over a real engine, its results, its errors, and what it leaves behind."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import transformers

import stageline_engine
from stageline_engine import LLM, EngineConfig, ModelConfig, SamplingParams, prepare
from stageline_engine.client.async_engine import AsyncEngine
from stageline_engine.core.config import SchedulerConfig
from stageline_engine.core.errors import ConfigurationError, EngineFailedError, InvalidRequestError, StagelineError
from stageline_engine.engine.setup import CoreSetup
from support.serving import alive
from support.tiny_models import parity_prompts, reference_greedy, tiny_model
from support.tiny_tokenizer import byte_level_tokenizer

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


@pytest.fixture
def interrupt_when() -> Iterator[Callable[[Callable[[], bool]], None]]:
    """Sends Ctrl-C to this process once a condition holds."""
    threads: list[threading.Thread] = []

    def interrupt_when(holds: Callable[[], bool]) -> None:
        def wait() -> None:
            while not holds():
                pass
            # Taken by this thread: the one that waits is not woken, as when a signal comes just before it waits.
            signal.pthread_kill(threading.get_ident(), signal.SIGINT)

        threads.append(threading.Thread(target=wait))
        threads[-1].start()

    yield interrupt_when
    for thread in threads:
        thread.join()


def test_an_interrupt_ends_the_requests_and_leaves_the_engine(
    llm: LLM, interrupt_when: Callable[[Callable[[], bool]], None]
) -> None:
    engine = llm._engine
    before, num_prompts, num_new = engine.stats.steps, 5000, 100
    interrupt_when(lambda: engine.stats.num_running > 0)
    with pytest.raises(KeyboardInterrupt):
        llm.generate(["hello"] * num_prompts, SamplingParams(max_tokens=num_new, ignore_eos=True))
    while engine.stats.num_running or engine.stats.num_waiting:
        pass
    max_num_seqs = SchedulerConfig().max_num_seqs
    assert engine.stats.steps - before < num_prompts // max_num_seqs * num_new
    assert llm.generate("still here", SamplingParams(max_tokens=1))


@pytest.mark.parametrize("attempt", range(8))
def test_an_interrupted_start_leaves_no_process(
    interrupt_when: Callable[[Callable[[], bool]], None], attempt: int
) -> None:
    """Several attempts, for the interrupt comes at another moment of the process's start each time."""
    before = set(psutil.Process().children(recursive=True))

    def started() -> set[psutil.Process]:
        return set(psutil.Process().children(recursive=True)) - before

    # With the model's profile known, an engine core is the only child.
    prepare(EngineConfig(model=ModelConfig(model=str(tiny_model("llama")))), lambda line: None)
    interrupt_when(lambda: len(started()) > 0)
    with pytest.raises(KeyboardInterrupt):
        LLM(str(tiny_model("llama")), max_model_len=64, threads=1, device="cpu", show_progress=False)
    assert not started()


def test_an_interrupt_at_the_very_end_of_the_start_leaves_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    before = set(psutil.Process().children(recursive=True))
    start = AsyncEngine.start

    async def interrupted_start(setup: CoreSetup, progress: Callable[[str], None]) -> AsyncEngine:
        engine = await start(setup, progress)
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)
        return engine

    monkeypatch.setattr(AsyncEngine, "start", interrupted_start)
    with pytest.raises(KeyboardInterrupt):
        LLM(str(tiny_model("llama")), max_model_len=64, threads=1, device="cpu", show_progress=False)
    assert set(psutil.Process().children(recursive=True)) <= before


def test_a_closed_engine_refuses_prompts() -> None:
    with LLM(str(tiny_model("llama")), max_model_len=64, threads=1, device="cpu", show_progress=False) as closed:
        pass
    with pytest.raises(EngineFailedError, match="closed"):
        closed.generate("hello")


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


def test_a_wrong_device_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="--device='tpu'"):
        LLM(str(tiny_model("llama")), device="tpu", show_progress=False)


def test_an_unverified_architecture_is_looked_at_only_on_demand(tmp_path: Path) -> None:
    config = transformers.StableLmConfig(
        hidden_size=24,
        intermediate_size=30,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=37,
    )
    byte_level_tokenizer(tmp_path)
    transformers.StableLmForCausalLM(config).save_pretrained(tmp_path)
    with pytest.raises(StagelineError, match="--allow-unverified-architecture"):
        LLM(str(tmp_path), device="cpu", show_progress=False)
    with pytest.raises(StagelineError, match="pipeline plan"):
        LLM(str(tmp_path), device="cpu", allow_unverified_architecture=True, show_progress=False)


def test_closing_ends_every_process() -> None:
    before = set(psutil.Process().children(recursive=True))
    running = LLM(str(tiny_model("llama")), max_model_len=64, threads=1, show_progress=False)
    started = set(psutil.Process().children(recursive=True)) - before
    assert len(started) >= 3
    running.close()
    running.close()
    assert not alive(started)


@pytest.mark.parametrize("number", [0, 1])
def test_the_guides_examples_run(number: int) -> None:
    code = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)[number]
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240)
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout


def test_every_exported_name_can_be_imported() -> None:
    for name in stageline_engine.__all__:
        assert getattr(stageline_engine, name) is not None


def test_the_only_sequence_may_be_as_long_as_the_model() -> None:
    folder = str(tiny_model("llama"))
    one = SchedulerConfig(max_num_seqs=1)
    with LLM(folder, threads=1, max_model_len=64, scheduler=one, show_progress=False) as llm:
        (output,) = llm.generate([[5] * 10], SamplingParams(temperature=0.0, max_tokens=1000, ignore_eos=True))
    assert len(output.outputs[0].token_ids) == 54
