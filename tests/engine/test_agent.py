"""The node agent with real processes: it starts, watches and ends them, and nothing of it survives its owner."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import psutil
import pytest

from stageline_engine.agent.node_agent import NodeAgent, RankDied, read_architecture
from stageline_engine.agent.rank_log import MAX_LINE_BYTES, TAIL_LINES, RankLog
from stageline_engine.comm.commands import RankBoot
from stageline_engine.comm.curve import new_keys
from support.processes import nothing_left

PATIENCE = 60.0
NOBODY = "tcp://127.0.0.1:9"
"""No engine core listens there: a rank waits for it until it is ended."""

OWNER = """
import logging, select, sys
from stageline_engine.agent.node_agent import NodeAgent
from stageline_engine.comm.commands import RankBoot
from stageline_engine.comm.curve import new_keys
agent = NodeAgent("LlamaForCausalLM", 1)
for rank in range(2):
    boot = RankBoot(stage=0, rank=rank, incarnation=1, endpoint="tcp://127.0.0.1:9", keys=new_keys(), log_level=20)
    agent.start(boot)
while None in (agent.pid((0, 0)), agent.pid((0, 1))):
    select.select([agent], [], [])
    agent.poll()
print(agent.pid((0, 0)), agent.pid((0, 1)), flush=True)
sys.stdin.readline()
"""


def boot(rank: int, incarnation: int = 1, endpoint: str = NOBODY) -> RankBoot:
    return RankBoot(stage=0, rank=rank, incarnation=incarnation, endpoint=endpoint, keys=new_keys(), log_level=20)


def wait_for(agent: NodeAgent, condition: Callable[[], object], num_deaths: int = 0) -> list[RankDied]:
    """Poll until ``condition`` and so many deaths; returns who died meanwhile."""
    died: list[RankDied] = []
    deadline = time.monotonic() + PATIENCE
    while len(died) < num_deaths or not condition():
        select.select([agent], [], [], 0.2)
        died += agent.poll()
        assert time.monotonic() < deadline, "nothing happened"
    return died


def wait_for_death(agent: NodeAgent) -> RankDied:
    (died,) = wait_for(agent, lambda: True, num_deaths=1)
    return died


@pytest.fixture
def agent() -> Iterator[NodeAgent]:
    with nothing_left():
        made = NodeAgent("LlamaForCausalLM", threads=1)
        yield made
        made.close()


def test_ranks_are_started_killed_and_replaced(agent: NodeAgent) -> None:
    agent.start(boot(0))
    agent.start(boot(1))
    wait_for(agent, lambda: agent.pid((0, 0)) and agent.pid((0, 1)))
    first, second = agent.pid((0, 0)), agent.pid((0, 1))
    assert first is not None
    parent = psutil.Process(first).ppid()
    assert psutil.Process(parent).ppid() == os.getpid()
    # A thread pool of the fork parent would be missing in its children.
    assert psutil.Process(parent).num_threads() == 1

    agent.kill((0, 0))
    died = wait_for_death(agent)
    assert (died.boot.rank, died.exit_code) == (0, -signal.SIGKILL)
    assert "SIGKILL" in died.reason
    assert agent.pid((0, 0)) is None
    agent.kill((0, 0))
    assert not psutil.pid_exists(first)

    agent.start(boot(0, incarnation=2))
    wait_for(agent, lambda: agent.pid((0, 0)))
    assert agent.pid((0, 0)) != first
    assert agent.pid((0, 1)) == second


def test_a_rank_that_raises_leaves_its_last_words(agent: NodeAgent) -> None:
    agent.start(boot(0, endpoint="nonsense"))
    died = wait_for_death(agent)
    assert died.exit_code == 1
    assert died.reason == "the process ended"
    assert "Traceback" in died.log_tail
    assert "ZMQError" in died.log_tail
    assert agent.log_tail((0, 0)) == died.log_tail


def test_stopped_ranks_and_terminal_signals(agent: NodeAgent) -> None:
    agent.start(boot(0))
    wait_for(agent, lambda: agent.pid((0, 0)))
    pid = agent.pid((0, 0))
    assert pid is not None
    parent = psutil.Process(pid).ppid()
    # Ctrl-C in a terminal reaches every process; a service manager's SIGTERM reaches the fork parent too.
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(parent, number)
    os.kill(pid, signal.SIGINT)
    os.kill(pid, signal.SIGSTOP)
    agent.close()
    assert not psutil.pid_exists(pid)
    assert not psutil.pid_exists(parent)
    agent.close()


def test_the_loss_of_the_fork_parent_is_the_loss_of_its_ranks(agent: NodeAgent) -> None:
    agent.start(boot(0))
    agent.start(boot(1))
    wait_for(agent, lambda: agent.pid((0, 0)) and agent.pid((0, 1)))
    processes = [psutil.Process(pid) for rank in (0, 1) if (pid := agent.pid((0, rank))) is not None]
    os.kill(processes[0].ppid(), signal.SIGKILL)
    died = wait_for(agent, lambda: agent.pid((0, 0)) is None and agent.pid((0, 1)) is None)
    assert [one.boot.rank for one in died] == [0, 1]
    assert {one.exit_code for one in died} == {-signal.SIGKILL}
    assert all("forked from" in one.reason for one in died)
    _, alive = psutil.wait_procs(processes, PATIENCE)
    assert not alive


def test_a_fork_parent_that_cannot_start_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", "")
    monkeypatch.setattr(sys, "executable", "/bin/false")
    agent = NodeAgent("LlamaForCausalLM", threads=1)
    agent.start(boot(0))
    died = wait_for_death(agent)
    assert died.exit_code == 1
    assert "while it imported" in died.reason
    agent.close()


def test_close_ends_a_fork_parent_that_still_imports() -> None:
    with nothing_left():
        agent = NodeAgent("LlamaForCausalLM", threads=1)
        agent.start(boot(0))
        assert not agent.is_preloaded
        agent.close()


def test_close_ends_ranks_that_a_stopped_fork_parent_cannot_end() -> None:
    with nothing_left():
        agent = NodeAgent("LlamaForCausalLM", threads=1)
        agent.start(boot(0))
        wait_for(agent, lambda: agent.pid((0, 0)))
        pid = agent.pid((0, 0))
        assert pid is not None
        rank = psutil.Process(pid)
        os.kill(rank.ppid(), signal.SIGSTOP)
        agent.close()
        _, alive = psutil.wait_procs([rank], PATIENCE)
        assert not alive


def test_close_ends_ranks_whose_process_ids_are_not_known_yet() -> None:
    with nothing_left():
        agent = NodeAgent("LlamaForCausalLM", threads=1)
        wait_for(agent, lambda: agent.is_preloaded)
        agent.start(boot(0))
        assert agent.pid((0, 0)) is None
        agent.close()


def test_nothing_survives_the_owner() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", OWNER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None
        assert len(owner.stdout.readline().split()) == 2
        processes = psutil.Process(owner.pid).children(recursive=True)
        assert len(processes) == 3
        owner.kill()
        _, alive = psutil.wait_procs(processes, PATIENCE)
        assert not alive


def test_the_owners_process_needs_no_torch() -> None:
    program = (
        "import sys, stageline_engine.executor.local\nprint({'torch', 'transformers', 'numpy'} & set(sys.modules))"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert said.stdout == "set()\n"


def test_a_log_keeps_the_last_lines() -> None:
    log = RankLog("stage 0 rank 0")
    for number in range(TAIL_LINES + 5):
        os.write(log.write_end, f"line {number}\n".encode())
        assert log.read()
    os.write(log.write_end, b"x" * (MAX_LINE_BYTES + 1) + b"\n\xff no newline")
    assert log.read()
    log.release_write_end()
    assert not log.read()
    lines = log.tail().split("\n")
    assert len(lines) == TAIL_LINES
    assert lines[-4:] == [f"line {TAIL_LINES + 4}", "x" * MAX_LINE_BYTES, "x", "\ufffd no newline"]
    log.close()


def test_the_architecture_is_read_without_transformers(tmp_path: os.PathLike[str]) -> None:
    assert read_architecture(os.fspath(tmp_path)) == ""
    for text, name in [("{", ""), ("{}", ""), ("[]", ""), ('{"architectures": ["X"]}', "X")]:
        with open(os.path.join(tmp_path, "config.json"), "w") as file:
            file.write(text)
        assert read_architecture(os.fspath(tmp_path)) == name
