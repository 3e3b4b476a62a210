"""`stageline plan --from-metrics` on a real server whose split is a bad one."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from support.serving import Served, serving
from support.tiny_models import make_tiny_model

FLAGS = ("--stages", "2", "--max-model-len", "256", "--kv-memory", "16MiB", "--threads", "1")
LAYERS = 12
UNEVEN = (1, LAYERS - 1)
"""So uneven that it shows although other tests take a stage's processor away at times."""


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wide enough that layers take longer than what a step costs besides: in a tiny one that decides."""
    folder = tmp_path_factory.mktemp("wide")
    make_tiny_model(
        "llama",
        folder,
        num_hidden_layers=LAYERS,
        hidden_size=512,
        intermediate_size=1536,
        num_attention_heads=8,
        num_key_value_heads=8,
        head_dim=64,
    )
    return folder


@pytest.fixture(scope="module")
def served(llama: Path) -> Iterator[Served]:
    with serving(llama, *FLAGS, "--layer-split", ",".join(map(str, UNEVEN))) as running:
        running.wait_ready()
        yield running


def plan(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "stageline_engine", "plan", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def refusal(*arguments: str | Path) -> str:
    done = plan(*arguments)
    assert done.returncode == 2, done.stdout
    return done.stderr.splitlines()[-1]


def test_what_was_not_measured_is_refused(llama: Path, served: Served) -> None:
    url = served.url
    of_an_idle_one = refusal(llama, "--stages", "2", "--from-metrics", url, "--measure-seconds", "0.1")
    assert "are needed: give --measure-seconds, and measure while requests run" in of_an_idle_one
    assert "runs 2: give --stages 2" in refusal(llama, "--stages", "3", "--from-metrics", url)
    assert "runs --tp 1,1: give that" in refusal(llama, "--stages", "2", "--tp", "2", "--from-metrics", url)
    assert refusal(llama, "--stages", "2", "--from-metrics", "http://127.0.0.1:1").startswith(
        "stageline: --from-metrics='http://127.0.0.1:1'"
    )
    assert refusal(llama, "--stages", "2", "--measure-seconds", "3").startswith("stageline: --measure-seconds=3")
    with_split = ("--stages", "2", "--from-metrics", url, "--layer-split", "6,6")
    assert refusal(llama, *with_split).startswith("stageline: --layer-split='6,6'")


@contextlib.contextmanager
def load(served: Served) -> Iterator[None]:
    """Eight clients that ask again and again while the body runs."""
    is_over = threading.Event()

    def ask() -> set[int]:
        codes = set()
        with served.client() as client:
            while not is_over.is_set():
                body = {"model": served.model, "prompt": "hello " * 5, "max_tokens": 60, "ignore_eos": True}
                codes.add(client.post("/v1/completions", json=body).status_code)
        return codes

    with ThreadPoolExecutor(8) as threads:
        clients = [threads.submit(ask) for _ in range(8)]
        try:
            yield
        finally:
            is_over.set()
        assert [client.result() for client in clients] == [{200}] * 8


def test_a_better_split_is_proposed_from_what_the_stages_did(llama: Path, served: Served) -> None:
    measured = (llama, "--stages", "2", "--from-metrics", served.url, "--measure-seconds", "4")
    with load(served):
        done = plan(*measured, "--json")
        shown = plan(*measured)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["layer_split"] == list(UNEVEN)
    assert sum(found["proposed_split"]) == LAYERS
    assert found["proposed_split"][0] > UNEVEN[0], found
    assert not found["is_best"]
    assert found["slowest_stage"] == 1
    assert found["gain"] > 1.01
    assert shown.returncode == 0, shown.stderr
    told = " ".join(shown.stdout.split())
    assert re.search(r"Stage 1 is the slowest, \d+% above the mean\. Better: --layer-split \d+,\d+, predicted to", told)
