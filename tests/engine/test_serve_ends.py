"""How `stageline serve` ends: told to, or because a part of it died or hangs. Nothing survives, and it says why.

The deadlines are promises to a person who waits, so they are the ones written here, with no margin.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from support.serving import Served, alive, serving
from support.tiny_models import tiny_model

FLAGS = ("--stages", "2", "--max-model-len", "256", "--kv-memory", "16MiB", "--threads", "1")
INTERRUPT_SECONDS = 20
"""The command gives itself 5; other tests have the processors at the same time."""
FAILURE_SECONDS = 10


@pytest.fixture(scope="module")
def llama() -> Path:
    return tiny_model("llama")


@pytest.fixture
def ready(llama: Path) -> Iterator[Served]:
    with serving(llama, *FLAGS) as running:
        running.wait_ready()
        yield running


def body(running: Served) -> dict[str, object]:
    return {"model": running.model, "prompt": "hello", "max_tokens": 240, "ignore_eos": True, "stream": True}


@contextlib.contextmanager
def streaming(running: Served) -> Iterator[Iterator[str]]:
    """The lines of a stream that has begun."""
    with running.client() as client, client.stream("POST", "/v1/completions", json=body(running)) as response:
        lines = response.iter_lines()
        assert next(lines).startswith("data: ")
        yield lines


def assert_ends(running: Served, family: list[psutil.Process], code: int, seconds: float) -> None:
    """The command ends in time with this exit code, and no process of it is left."""
    assert len(family) >= 4
    assert running.wait_exit(seconds) == code, running.log
    assert not alive(family)


def test_an_interrupt_ends_every_process(ready: Served) -> None:
    family = ready.family()
    ready.signal(signal.SIGINT)
    assert_ends(ready, family, 130, INTERRUPT_SECONDS)


def test_an_interrupt_ends_running_streams_with_an_error(ready: Served) -> None:
    family = ready.family()
    with streaming(ready) as lines:
        ready.signal(signal.SIGINT)
        rest = list(lines)
    assert any("error" in line for line in rest), rest
    assert_ends(ready, family, 130, INTERRUPT_SECONDS)


def test_an_interrupt_ends_a_rank_that_hangs(ready: Served) -> None:
    family = ready.family()
    with streaming(ready) as lines:
        ready.ranks()[1].suspend()
        ready.signal(signal.SIGINT)
        rest = list(lines)
    assert any("error" in line for line in rest), rest
    assert_ends(ready, family, 130, INTERRUPT_SECONDS)


def test_an_interrupt_ends_a_start(llama: Path) -> None:
    with serving(llama, *FLAGS) as starting:
        starting.wait_line("processes are there")
        family = starting.family()
        starting.signal(signal.SIGINT)
        assert_ends(starting, family, 130, INTERRUPT_SECONDS)
        assert not starting.url


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_command_that_still_fetches_its_model(number: signal.Signals) -> None:
    # Handled, not left to the system, which passes over a container's first process.
    with socket.create_server(("127.0.0.1", 0)) as silent_hub:
        silent_hub.settimeout(60)
        where = f"http://127.0.0.1:{silent_hub.getsockname()[1]}"
        with serving("hf://tiny/model", env={"HF_ENDPOINT": where, "HF_HUB_OFFLINE": "0"}) as fetching:
            asked, _ = silent_hub.accept()
            with asked:
                family = fetching.family()
                fetching.signal(number)
                assert fetching.wait_exit(INTERRUPT_SECONDS) == 130, fetching.log
                assert not alive(family)


def test_a_signal_ends_a_command_that_is_still_imported(tmp_path: Path) -> None:
    (tmp_path / "cyclopts.py").write_text("import signal\nprint('importing', flush=True)\nsignal.pause()\n")
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    with subprocess.Popen(
        [sys.executable, "-m", "stageline_engine", "node"],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        text=True,
    ) as starting:
        assert starting.stdout is not None
        assert starting.stdout.readline() == "importing\n"
        starting.terminate()
        assert starting.wait(INTERRUPT_SECONDS) == 130


def test_terminate_lets_running_requests_finish_and_refuses_new_ones(ready: Served) -> None:
    family = ready.family()
    with streaming(ready) as lines:
        ready.signal(signal.SIGTERM)
        # The handler has run once readiness says so.
        with ready.client() as other:
            while other.get("/ready").status_code == 200:
                pass
            refused = other.post("/v1/completions", json={**body(ready), "stream": False})
            assert refused.status_code == 503
            assert int(refused.headers["retry-after"]) > 0
        rest = [line for line in lines if line.startswith("data: ")]
    assert rest[-1] == "data: [DONE]"
    assert '"finish_reason":"length"' in "".join(rest).replace(" ", "")
    assert_ends(ready, family, 0, FAILURE_SECONDS)


@pytest.mark.parametrize(
    ("harm", "told"),
    [(psutil.Process.kill, "exit code -9"), (psutil.Process.suspend, "no progress for")],
    ids=["dies", "hangs"],
)
def test_a_rank_that_fails_ends_the_service_loudly(
    llama: Path, harm: Callable[[psutil.Process], None], told: str
) -> None:
    with serving(llama, *FLAGS, "--hang-timeout", "2") as running:
        running.wait_ready()
        family = running.family()
        with streaming(running) as lines:
            harm(running.ranks()[1])
            rest = list(lines)
        assert any("error" in line for line in rest), rest
        assert_ends(running, family, 1, FAILURE_SECONDS)
        assert "stage 1 rank 0" in running.log
        assert told in running.log


@pytest.mark.parametrize("stage", [0, 1])
def test_the_death_of_a_rank_during_start_ends_the_command(llama: Path, stage: int) -> None:
    with serving(llama, *FLAGS) as starting:
        starting.wait_line("processes are there")
        family = starting.family()
        starting.ranks()[stage].kill()
        assert_ends(starting, family, 1, FAILURE_SECONDS)
        assert f"stage {stage} rank 0" in starting.log
        assert "exit code -9" in starting.log
        assert not starting.url


def test_the_death_of_the_engine_core_ends_the_service_loudly(ready: Served) -> None:
    family = ready.family()
    (core,) = [one for one in family if "stageline_engine.engine.process" in one.cmdline()]
    core.kill()
    assert_ends(ready, family, 1, FAILURE_SECONDS)
    assert "exit code -9" in ready.log


@pytest.mark.parametrize("moment", ["processes are there", "ready: "])
def test_nothing_survives_the_kill_of_the_server(llama: Path, moment: str) -> None:
    with serving(llama, *FLAGS) as running:
        running.wait_line(moment)
        family = running.family()
        assert len(family) >= 4
        # So that no word of theirs wakes the core: it would notice by itself, once all are there.
        for rank in running.ranks():
            rank.suspend()
        running.signal(signal.SIGKILL)
        _, alive = psutil.wait_procs(family, timeout=FAILURE_SECONDS)
        assert not alive
