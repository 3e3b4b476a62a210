"""`stageline serve` as a person meets it: started, asked, stopped, killed, and given wrong input."""

from __future__ import annotations

import re
import shutil
import signal
import socket
from pathlib import Path

import httpx
import openai
import psutil
import pytest

from support.serving import Served, end, serving, start_serving
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


def test_interrupt_ends_every_process_within_seconds(llama: Path) -> None:
    running = start_serving(llama, "--stages", "2", *FLAGS)
    try:
        running.wait_ready()
        family = running.family()
        assert len(family) >= 5
        running.signal(signal.SIGINT)
        assert running.wait_exit(8) == 130
        assert not [process for process in family if process.is_running()]
    finally:
        end(running)


def test_terminate_lets_running_requests_finish_and_refuses_new_ones(llama: Path) -> None:
    running = start_serving(llama, "--stages", "2", *FLAGS)
    try:
        running.wait_ready()
        body = {"model": running.model, "prompt": "hello", "max_tokens": 240, "ignore_eos": True, "stream": True}
        with running.client() as client, client.stream("POST", "/v1/completions", json=body) as response:
            lines = response.iter_lines()
            first = next(lines)
            running.signal(signal.SIGTERM)
            # The handler has run once readiness says so.
            with running.client() as other:
                while other.get("/ready").status_code == 200:
                    pass
                refused = other.post("/v1/completions", json={**body, "stream": False})
                assert refused.status_code == 503
                assert int(refused.headers["retry-after"]) > 0
            rest = [line for line in lines if line.startswith("data: ")]
        assert first.startswith("data: ")
        assert rest[-1] == "data: [DONE]"
        assert '"finish_reason":"length"' in "".join(rest).replace(" ", "")
        assert running.wait_exit(10) == 0
    finally:
        end(running)


def test_the_death_of_a_rank_ends_the_service_loudly(llama: Path) -> None:
    running = start_serving(llama, "--stages", "2", *FLAGS)
    try:
        running.wait_ready()
        family = running.family()
        body = {"model": running.model, "prompt": "hello", "max_tokens": 240, "ignore_eos": True, "stream": True}
        with running.client() as client, client.stream("POST", "/v1/completions", json=body) as response:
            lines = response.iter_lines()
            next(lines)
            running.ranks()[1].kill()
            rest = list(lines)
        assert any("error" in line for line in rest), rest
        assert running.wait_exit(10) == 1
        assert "stage 1 rank 0" in running.log
        assert "exit code -9" in running.log
        psutil.wait_procs(family, timeout=5)
        assert not [process for process in family if process.is_running()]
    finally:
        end(running)


def test_a_rank_that_hangs_ends_the_service_loudly(llama: Path) -> None:
    running = start_serving(llama, "--stages", "2", *FLAGS, "--hang-timeout", "2")
    try:
        running.wait_ready()
        family = running.family()
        body = {"model": running.model, "prompt": "hello", "max_tokens": 240, "ignore_eos": True, "stream": True}
        with running.client() as client, client.stream("POST", "/v1/completions", json=body) as response:
            lines = response.iter_lines()
            next(lines)
            running.ranks()[1].suspend()
            rest = list(lines)
        assert any("error" in line for line in rest), rest
        assert running.wait_exit(15) == 1
        assert "stage 1 rank 0: no progress for" in running.log
        psutil.wait_procs(family, timeout=5)
        assert not [process for process in family if process.is_running()]
    finally:
        end(running)


def test_the_death_of_a_rank_during_start_ends_the_command(llama: Path) -> None:
    running = start_serving(llama, "--stages", "2", *FLAGS)
    try:
        running.wait_line("processes are there")
        family = running.family()
        running.ranks()[0].kill()
        assert running.wait_exit(10) == 1
        assert "rank 0" in running.log
        assert "exit code -9" in running.log
        assert not running.url
        psutil.wait_procs(family, timeout=5)
        assert not [process for process in family if process.is_running()]
    finally:
        end(running)


def test_nothing_survives_the_kill_of_the_server(llama: Path) -> None:
    running = start_serving(llama, "--stages", "2", *FLAGS)
    try:
        running.wait_ready()
        family = running.family()
        running.signal(signal.SIGKILL)
        _, alive = psutil.wait_procs(family, timeout=10)
        assert not alive
    finally:
        end(running)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--stages", "2", "--layer-split", "1,1"), "--layer-split"),
        (("--stages", "2", "--layer-split", "1,2,3"), "--layer-split"),
        (("--stages", "99"), "--stages"),
        (("--tp", "7"), "--tp"),
        (("--kv-memory", "1"), "--kv-memory"),
        (("--max-model-len", "999999999"), "--max-model-len"),
        (("--dtype", "int3"), "dtype"),
        (("--max-model-len", "1"), "--max-model-len"),
        (("--api-key-file", "/nowhere"), "--api-key-file"),
    ],
)
def test_a_wrong_flag_is_one_clear_line(llama: Path, flags: tuple[str, ...], message: str) -> None:
    running = start_serving(llama, *flags)
    try:
        assert running.wait_exit(30) in (1, 2)
        assert message in running.log
        assert "Traceback" not in running.log
    finally:
        end(running)


def test_a_port_in_use_is_told_before_the_long_steps(llama: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        running = start_serving(llama, "--port", port)
        try:
            assert running.wait_exit(30) == 2
            assert f"--port='127.0.0.1:{port}'" in running.log
            assert "Traceback" not in running.log
        finally:
            end(running)


def test_a_truncated_weights_file_is_named(llama: Path, tmp_path: Path) -> None:
    folder = tmp_path / "broken"
    folder.mkdir()
    for file in llama.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    weights = max(folder.glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1000])
    running = start_serving(folder, *FLAGS)
    try:
        assert running.wait_exit(30) == 2
        assert weights.name in running.log
        assert "Traceback" not in running.log
    finally:
        end(running)


def test_a_damaged_chat_template_is_told_before_the_long_steps(llama: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(llama, tmp_path / "broken")
    (folder / "chat_template.jinja").write_text("{% if %}")
    running = start_serving(folder, *FLAGS)
    try:
        assert running.wait_exit(30) == 2
        assert "chat template" in running.log
        assert "starting" not in running.log
        assert "Traceback" not in running.log
    finally:
        end(running)


def test_a_cache_that_cannot_be_written_is_one_clear_line(llama: Path, tmp_path: Path) -> None:
    (file := tmp_path / "file").write_text("not a folder")
    running = start_serving(llama, *FLAGS, env={"STAGELINE_CACHE": str(file / "cache")})
    try:
        assert running.wait_exit(30) == 1
        assert re.search(f"^stageline: .*{file}", running.log, re.MULTILINE)
        assert "Traceback" not in running.log
    finally:
        end(running)


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
