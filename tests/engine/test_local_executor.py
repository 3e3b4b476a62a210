"""Ranks as processes: same tokens as in one process, and what befalls a person when one of them dies."""

from __future__ import annotations

import os
import random
import signal
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from support.executor_driver import NUM_BLOCKS, ExecutorDriver, stage_settings
from support.tiny_models import LAYERS, tiny_model

from stageline_engine.core.deployment import RankLoaded
from stageline_engine.core.errors import ConfigurationError, ModelSourceError, StageFailedError, UnsupportedModelError
from stageline_engine.executor.base import Started
from stageline_engine.executor.inline import InlineExecutor
from stageline_engine.executor.local import LocalExecutor

PROMPTS = [[5, 9, 2, 71, 30, 8, 1], [200, 3], [17, 18, 19, 20, 21, 22, 23, 24, 25], [99]]
MAX_TOKENS = 9


@pytest.fixture(scope="module")
def folder() -> Path:
    return tiny_model("llama")


@pytest.fixture(scope="module")
def expected(folder: Path) -> list[list[int]]:
    executor = InlineExecutor()
    executor.start(stage_settings(folder, [0, LAYERS], [1]), lambda loaded: NUM_BLOCKS, lambda line: None, 1)
    try:
        return ExecutorDriver(executor).generate(PROMPTS, MAX_TOKENS)
    finally:
        executor.close()


@contextmanager
def running(
    folder: Path, bounds: Sequence[int], tp: Sequence[int], lines: list[str] | None = None
) -> Iterator[tuple[LocalExecutor, Started]]:
    executor = LocalExecutor()
    try:
        yield (
            executor,
            executor.start(
                stage_settings(folder, bounds, tp),
                lambda loaded: NUM_BLOCKS,
                ([] if lines is None else lines).append,
                1,
            ),
        )
    finally:
        executor.close()


def children() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


@pytest.mark.parametrize(
    ("bounds", "tp"),
    [((0, 5), (1,)), ((0, 5), (2,)), ((0, 2, 5), (1, 1)), ((0, 2, 5), (2, 1)), ((0, 3, 5), (1, 2)), ((0, 1, 3, 5), (1, 1, 1))],
    ids=lambda value: "-".join(map(str, value)),
)
def test_processes_give_the_tokens_of_one_process(
    folder: Path, expected: list[list[int]], bounds: Sequence[int], tp: Sequence[int]
) -> None:
    lines: list[str] = []
    with running(folder, bounds, tp, lines) as (executor, started):
        driver = ExecutorDriver(executor)
        assert driver.generate(PROMPTS, MAX_TOKENS) == expected
        # Once more: sequences of before are still known, their blocks taken.
        assert driver.generate(PROMPTS, MAX_TOKENS)[: len(PROMPTS)] == expected
        assert [len(pids) for pids in started.rank_pids] == list(tp)
        assert len(executor.resident_bytes()) == len(tp)
        assert all(resident > 0 for resident in executor.resident_bytes())
        for stage in range(len(tp)):
            assert any(line.startswith(f"stage {stage} ") and "loaded" in line for line in lines)
            assert any(line.startswith(f"stage {stage}: warm") for line in lines)
    assert not children()


def test_reports_account_for_every_stage_and_step(folder: Path) -> None:
    with running(folder, (0, 2, 5), (1, 1)) as (executor, _):
        driver = ExecutorDriver(executor)
        driver.generate(PROMPTS, MAX_TOKENS)
    steps = 2 * MAX_TOKENS
    by_stage = {stage: [report for report in driver.reports if report.stage == stage] for stage in (0, 1)}
    assert [report.step for report in by_stage[0]] == list(range(1, steps + 1))
    # The result of a step is sent before its report, so the last report may still be on its way.
    assert [report.step for report in by_stage[1]][: steps - 1] == list(range(1, steps))
    first_rows = sum(map(len, PROMPTS[0::2]))
    assert by_stage[0][0].boundary_bytes == first_rows * 48 * 4
    assert all(report.boundary_bytes == 0 for report in by_stage[1])
    assert all(report.busy > 0 for report in driver.reports)
    # All plans were sent ahead: stage 0 waited for tokens, stage 1 for activations.
    assert sum(report.wait_feedback for report in by_stage[0]) > 0
    assert sum(report.wait_upstream for report in by_stage[1]) > 0
    assert sum(report.wait_feedback for report in by_stage[1]) == 0


def test_a_rank_killed_in_service_is_named(folder: Path, expected: list[list[int]]) -> None:
    with running(folder, (0, 2, 5), (1, 1)) as (executor, started):
        driver = ExecutorDriver(executor)
        assert driver.generate(PROMPTS, MAX_TOKENS) == expected
        os.kill(started.rank_pids[1][0], signal.SIGKILL)
        with pytest.raises(StageFailedError, match="SIGKILL") as caught:
            driver.generate(PROMPTS, MAX_TOKENS)
        assert (caught.value.stage, caught.value.rank, caught.value.exit_code) == (1, 0, -9)
    assert not children()


def test_a_rank_killed_while_idle_is_named(folder: Path) -> None:
    with running(folder, (0, 2, 5), (2, 1)) as (executor, started):
        os.kill(started.rank_pids[0][1], signal.SIGTERM)
        with pytest.raises(StageFailedError, match="SIGTERM") as caught:
            ExecutorDriver(executor).wait_for(1)
        assert (caught.value.stage, caught.value.rank, caught.value.exit_code) == (0, 1, -15)


@pytest.mark.parametrize("victim", ["rank", "fork parent"])
def test_a_process_killed_during_start_ends_the_start(folder: Path, victim: str) -> None:
    def choose_blocks(loaded: list[RankLoaded]) -> int:
        (fork_parent,) = psutil.Process().children()
        processes = fork_parent.children() if victim == "rank" else [fork_parent]
        os.kill(max(process.pid for process in processes), signal.SIGKILL)
        return NUM_BLOCKS

    executor = LocalExecutor()
    with pytest.raises(StageFailedError) as caught:
        executor.start(stage_settings(folder, (0, 2, 5), (1, 1)), choose_blocks, lambda line: None, 1)
    assert caught.value.exit_code == -9
    assert not children()


def test_a_rank_that_raises_shows_its_last_words(folder: Path) -> None:
    executor = LocalExecutor()
    with pytest.raises(StageFailedError) as caught:
        executor.start(stage_settings(folder, (0, 2, 5), (1, 1)), lambda loaded: 10**15, lambda line: None, 1)
    assert caught.value.exit_code == 1
    assert "Traceback" in caught.value.log_tail
    assert "Traceback" in str(caught.value)
    assert not children()


def test_an_unsupported_model_is_told_as_such(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2"}')
    with pytest.raises(UnsupportedModelError) as caught, running(tmp_path, (0, 2, 5), (1, 1)):
        pass
    assert "GPT2LMHeadModel" in str(caught.value)
    assert not children()


def test_a_missing_model_is_told_as_such(tmp_path: Path) -> None:
    with pytest.raises(ModelSourceError) as caught, running(tmp_path, (0, 2, 5), (1, 1)):
        pass
    assert str(tmp_path) in str(caught.value)
    assert caught.value.remedy


def test_an_impossible_cut_is_told_with_field_and_value(folder: Path) -> None:
    with pytest.raises(ConfigurationError) as caught, running(folder, (0, 5), (5,)):
        pass
    assert caught.value.field == "--tp"
    assert type(caught.value) is ConfigurationError


def test_an_error_of_choose_blocks_ends_the_start(folder: Path) -> None:
    def choose_blocks(loaded: list[RankLoaded]) -> int:
        raise ConfigurationError("--kv-memory", 1, "give more")

    with pytest.raises(ConfigurationError, match="--kv-memory"):
        LocalExecutor().start(stage_settings(folder, (0, 5), (1,)), choose_blocks, lambda line: None, 1)
    assert not children()


def test_strangers_on_every_port_do_no_harm(folder: Path, expected: list[list[int]]) -> None:
    with running(folder, (0, 2, 5), (2, 1)) as (executor, started):
        driver = ExecutorDriver(executor)
        assert driver.generate(PROMPTS, MAX_TOKENS) == expected
        ports = listening_ports([os.getpid(), *(pid for pids in started.rank_pids for pid in pids)])
        # The channel, two feedback sockets, and gloo's: two of stage 0's group, two of each boundary.
        assert len(ports) >= 5
        strangers = [talk_nonsense(address, port, seed) for address, port in ports for seed in range(4)]
        assert {address for address, _ in ports} == {"127.0.0.1"}
        assert driver.generate(PROMPTS, MAX_TOKENS)[: len(PROMPTS)] == expected
        for stranger in strangers:
            stranger.close()
        assert driver.generate(PROMPTS, MAX_TOKENS)[: len(PROMPTS)] == expected


def listening_ports(pids: Sequence[int]) -> list[tuple[str, int]]:
    """Addresses on which the processes listen."""
    return [
        (connection.laddr.ip, connection.laddr.port)
        for pid in pids
        for connection in psutil.Process(pid).net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]


def talk_nonsense(address: str, port: int, seed: int) -> socket.socket:
    """Connect, say something, and stay."""
    greeting = b"\xff" + bytes(8) + b"\x7f\x03\x00NULL" + bytes(16) + b"\x00" + bytes(31)
    words = [random.Random(seed).randbytes(4096), b"GET / HTTP/1.1\r\n\r\n", greeting, b"\0" * 8][seed]
    stranger = socket.create_connection((address, port), timeout=5)
    stranger.sendall(words)
    return stranger
