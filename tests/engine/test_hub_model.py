"""A hub's model from its name to its tokens: planned without weights, fetched once, served again without a hub."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from stageline_engine import LLM, SamplingParams
from stageline_engine.core.errors import EngineStartError
from stageline_engine.sources.integrity import read_header
from stageline_engine.sources.resolve import resolve
from support.hub_server import Hub, our_hub
from support.inline_engine import InlineEngine, even_split
from support.tiny_models import LAYERS, parity_prompts, reference_greedy, tiny_model

GREEDY = SamplingParams(temperature=0.0, max_tokens=6, ignore_eos=True)
FAMILY = "llama"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    files = {path.name: path.read_bytes() for path in tiny_model(FAMILY).iterdir()}
    with our_hub(files, tmp_path, monkeypatch) as running:
        yield running


def weight_bytes() -> int:
    """Of all files, headers included."""
    return sum(file.stat().st_size for file in tiny_model(FAMILY).glob("*.safetensors"))


def header_bytes() -> int:
    return sum(read_header(file).length for file in tiny_model(FAMILY).glob("*.safetensors"))


def start() -> LLM:
    return LLM("hf://org/tiny", stages=2, tp=[2, 1], threads=1, max_model_len=128, show_progress=False)


def test_a_model_is_planned_without_weights_and_served_from_one_download(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = [sys.executable, "-m", "stageline_engine", "plan", "hf://org/tiny", "--stages", "2"]
    shown = subprocess.run(plan, capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    assert hub.sent_weights() == 0

    prompts = parity_prompts(tiny_model(FAMILY), (9, 4), 6)
    expected = reference_greedy(tiny_model(FAMILY), prompts, 6)
    with start() as llm:
        assert [output.outputs[0].token_ids for output in llm.generate(prompts, GREEDY)] == expected
    # Two stages, three ranks, one machine.
    assert hub.sent_weights() == weight_bytes()

    hub.forget()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with start() as llm:
        assert [output.outputs[0].token_ids for output in llm.generate(prompts, GREEDY)] == expected
    assert hub.requests == []


def test_the_inline_executor_fetches_what_its_stages_read(hub: Hub) -> None:
    folder = resolve("hf://org/tiny", progress=print).path
    assert hub.sent_weights() == header_bytes()
    prompts = parity_prompts(tiny_model(FAMILY), (9, 4), 6)
    with InlineEngine(folder, even_split(LAYERS, 3), 2) as engine:
        assert engine.generate(prompts, GREEDY) == reference_greedy(tiny_model(FAMILY), prompts, 6)
    assert hub.sent_weights() == weight_bytes()


def test_an_engine_whose_weights_cannot_be_fetched_says_why(hub: Hub) -> None:
    name = "model-00001-of-00012.safetensors"
    assert name in hub.files
    # The header is asked for in two parts; whatever comes then is refused.
    hub.statuses[name] = [200, 200, 403]
    with pytest.raises(EngineStartError, match=f"refuses {name} .status 403.: set HF_TOKEN") as caught:
        start()
    assert caught.value.exit_code == 2
