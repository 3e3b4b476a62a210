"""Ranks as processes: same tokens as in one process, whatever the cut, and whoever knocks at their ports."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
import pytest

from support.executor_driver import Running, tokens_of_one_process
from support.processes import nothing_left
from support.tiny_models import parity_prompts, reference_greedy, tiny_model

PROMPTS = [[5, 9, 2, 71, 30, 8, 1], [200, 3], [17, 18, 19, 20, 21, 22, 23, 24, 25], [99]]
MAX_TOKENS = 9


@pytest.fixture(scope="module")
def folder() -> Path:
    return tiny_model("llama")


@pytest.fixture(scope="module")
def expected(folder: Path) -> list[list[int]]:
    return tokens_of_one_process(folder, PROMPTS, MAX_TOKENS)


@pytest.fixture(
    scope="module",
    params=[((0, 5), (1,)), ((0, 5), (2,)), ((0, 2, 5), (1, 1)), ((0, 2, 5), (2, 1)), ((0, 3, 5), (1, 2))],
    ids=["tp1", "tp2", "tp1-tp1", "tp2-tp1", "tp1-tp2"],
)
def running(request: pytest.FixtureRequest, folder: Path) -> Iterator[Running]:
    bounds, tp = request.param
    with nothing_left():
        made = Running(folder, bounds, tp)
        yield made
        made.close()


def test_processes_give_the_tokens_of_one_process(running: Running, expected: list[list[int]]) -> None:
    assert running.driver.generate(PROMPTS, MAX_TOKENS) == expected
    # Once more: sequences of before are still known, their blocks taken.
    assert running.driver.generate(PROMPTS, MAX_TOKENS) == expected


@pytest.mark.parametrize(
    ("family", "bounds", "tp"), [("gemma3", (0, 2, 3, 5), (1, 2, 1)), ("mixtral", (0, 2, 5), (2, 1))]
)
def test_processes_of_other_families_give_the_tokens_of_transformers(
    family: str, bounds: tuple[int, ...], tp: tuple[int, ...]
) -> None:
    folder = tiny_model(family)
    prompts = parity_prompts(folder, (7, 2, 9, 1), MAX_TOKENS)
    with nothing_left():
        made = Running(folder, bounds, tp)
        try:
            assert made.driver.generate(prompts, MAX_TOKENS) == reference_greedy(folder, prompts, MAX_TOKENS)
        finally:
            made.close()


def test_a_person_is_told_how_the_start_goes(running: Running) -> None:
    for stage in range(len(running.tp)):
        assert any(line.startswith(f"stage {stage} (layers") and "loaded" in line for line in running.lines)
        assert any(line.startswith(f"stage {stage}: warm") for line in running.lines)


def test_processes_and_memory_are_told_by_stage(running: Running) -> None:
    pids = running.started.rank_pids
    assert [len(of_stage) for of_stage in pids] == list(running.tp)
    resident = running.executor.resident_bytes()
    for stage, of_stage in enumerate(pids):
        assert resident[stage] > 0
        assert all(psutil.pid_exists(pid) for pid in of_stage)


def test_strangers_on_every_port_do_no_harm(running: Running, expected: list[list[int]]) -> None:
    pids = [os.getpid(), *(pid for of_stage in running.started.rank_pids for pid in of_stage)]
    ports = listening_ports(pids)
    # The channel, gloo's on both sides of each boundary and in each rank of a group, one for step results.
    assert len(ports) >= 1 + (len(pids) > 2) * 3
    assert {address for address, _ in ports} == {"127.0.0.1"}
    strangers = [talk_nonsense(address, port, seed) for address, port in ports for seed in range(4)]
    assert running.driver.generate(PROMPTS, MAX_TOKENS) == expected
    for stranger in strangers:
        stranger.close()
    assert running.driver.generate(PROMPTS, MAX_TOKENS) == expected


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
