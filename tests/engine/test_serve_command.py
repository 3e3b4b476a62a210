"""`stageline serve` as a person meets it: started and asked. How it ends is test_serve_ends.py's, and what it refuses
test_serve_refusals.py's."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import openai
import pytest

from support.serving import Served, serving
from support.tiny_models import tiny_model

FLAGS = ("--max-model-len", "256", "--kv-memory", "16MiB", "--threads", "1")


@pytest.fixture(scope="module")
def llama() -> Path:
    return tiny_model("llama")


@pytest.fixture(scope="module")
def served(llama: Path):  # type: ignore[no-untyped-def]
    with serving(llama, "--stages", "2", *FLAGS, "--served-model-name", "tiny") as running:
        running.wait_ready()
        yield running


def test_the_openai_client_streams_an_answer_through_two_stages(served: Served) -> None:
    client = openai.OpenAI(base_url=f"{served.url}/v1", api_key="none")
    assert [model.id for model in client.models.list()] == ["tiny"]
    whole = client.completions.create(model="tiny", prompt="hello world", max_tokens=12, temperature=0)
    stream = client.completions.create(model="tiny", prompt="hello world", max_tokens=12, temperature=0, stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == whole.choices[0].text
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 12
    assert whole.choices[0].finish_reason == "length"
    client.close()


def test_probes_say_alive_and_ready_while_idle(served: Served) -> None:
    with served.client() as client:
        assert client.get("/health").status_code == 200
        assert client.get("/ready").status_code == 200


def test_each_stage_is_a_process_and_the_head_holds_no_torch(served: Served) -> None:
    ranks = served.ranks()
    assert len(ranks) == 2
    head = [
        process for process in served.family() if process not in ranks and "fork_parent" not in process.cmdline()[-1]
    ]
    for process in head:
        if any("fork_parent" in part for part in process.cmdline()):
            continue
        libraries = {Path(mapped.path).name for mapped in process.memory_maps()}
        assert not any("libtorch" in library for library in libraries), process.cmdline()


def test_ranks_say_how_they_were_joined_when_they_are_asked(llama: Path) -> None:
    with serving(llama, "--stages", "2", *FLAGS, "--log-level", "debug") as running:
        running.wait_ready()
        for stage in (0, 1):
            joined = rf"DEBUG stageline_engine\.comm\.rendezvous: .*: gloo through host memory \(stage={stage} rank=0"
            assert re.search(joined, running.log), running.log


def test_a_client_that_leaves_frees_its_sequence(served: Served) -> None:
    body = {"model": "tiny", "prompt": "hello", "max_tokens": 200, "ignore_eos": True, "stream": True}
    with served.client() as client:
        with client.stream("POST", "/v1/completions", json=body) as response:
            next(response.iter_lines())
        for _ in range(200):
            if "stageline_num_requests_running" in (text := client.get("/metrics").text) and _gauge(text) == 0:
                return
        pytest.fail(f"the sequence still runs:\n{text}")


def _gauge(text: str) -> float:
    lines = [line for line in text.splitlines() if line.startswith("stageline_num_requests_running")]
    return float(lines[0].split()[-1])


def test_requests_need_a_key_when_a_key_file_is_given(llama: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("# one per line\nsecret\n")
    with serving(llama, *FLAGS, "--api-key-file", str(keys)) as running:
        running.wait_ready()
        body = {"model": running.model, "prompt": "hello", "max_tokens": 2}
        assert httpx.post(f"{running.url}/v1/completions", json=body).status_code == 401
        answer = httpx.post(
            f"{running.url}/v1/completions", json=body, headers={"authorization": "Bearer secret"}, timeout=60
        )
        assert answer.status_code == 200
