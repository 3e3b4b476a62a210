"""`stageline node` as a machine runs it: a real process in a network namespace, and a head that pytest itself is."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import httpx
import msgspec
import psutil

from stageline_engine.comm.key_file import KEY_BYTES, KEY_FILE, read_keys
from stageline_engine.core.deployment import RankSettings
from stageline_engine.core.messages import PipelineState
from stageline_engine.executor.base import Started
from stageline_engine.executor.nodes import NodesExecutor
from stageline_engine.executor.rank_host import RankHost
from stageline_engine.executor.roster import Roster
from support.executor_driver import NUM_BLOCKS, ExecutorDriver, stage_settings
from support.namespaces import Machine, Network
from support.serving import Served, alive

CONTROL_PORT = 7400
STATUS_PORT = 8080
PATIENCE_SECONDS = 120.0


def make_keys(folder: Path) -> Path:
    """A new key in a new folder."""
    folder.mkdir()
    (folder / KEY_FILE).write_bytes(os.urandom(KEY_BYTES))
    return folder


class Nodes:
    """Nodes of one head, each on its machine."""

    def __init__(self, network: Network, keys: Path) -> None:
        self.network = network
        self.keys = keys
        self.started: list[Served] = []

    def start(
        self,
        number: int,
        *,
        stage: int | None = None,
        tp: int = 1,
        keys: Path | None = None,
        env: dict[str, str] | None = None,
        more: dict[str, str] | None = None,
    ) -> Served:
        """Start a node on a machine, for the stage of the same number."""
        machine = self.network.machines[number]
        arguments = {
            "--head": f"{self.network.address}:{CONTROL_PORT}",
            "--stage": number if stage is None else stage,
            "--tp": tp,
            "--status-port": STATUS_PORT,
            "--keys": keys or self.keys,
            **(more or {}),
        }
        words = [str(word) for pair in arguments.items() for word in pair]
        process = subprocess.Popen(
            machine.command(sys.executable, "-m", "stageline_engine", "node", *words),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "STAGELINE_POD_NAME": f"pod-{number}", **(env or {})},
        )
        self.started.append(Served(process))
        return self.started[-1]

    def end(self) -> None:
        """End those that are left, with all that they started."""
        for node in self.started:
            if node.process.poll() is None:
                family = node.family()
                node.process.kill()
                node.process.wait()
                for process in family:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        process.kill()
            node.wait_exit()
            assert node.process.stdout is not None
            node.process.stdout.close()


class Head:
    """An executor over nodes. ``states`` and ``lines`` keep what it told."""

    def __init__(self, network: Network, keys: Path, settings: Sequence[RankSettings]) -> None:
        self.executor = NodesExecutor(read_keys(keys), network.address, CONTROL_PORT)
        self.settings = settings
        self.states: list[PipelineState] = []
        self.lines: list[str] = []
        self.on_line: Callable[[str], None] = lambda line: None

    def start(self) -> Started:
        return self.executor.start(self.settings, lambda loaded: NUM_BLOCKS, self._note, 1, self.states.append)

    def driver(self) -> ExecutorDriver:
        return ExecutorDriver(self.executor)

    @contextlib.contextmanager
    def listening(self) -> Iterator[RankHost]:
        """Only takes nodes, for as long as :func:`pump` is called."""
        host = self.executor.make_host(self.settings, self._note, Roster(self.settings, self.states.append))
        try:
            yield host
        finally:
            host.close()

    def states_of(self, stage: int) -> list[tuple[str, str]]:
        """What the stage went through: (pod, state), without repetitions."""
        seen: list[tuple[str, str]] = []
        for state in self.states:
            member = state.stages[stage]
            if not seen or seen[-1] != (member.pod, member.state):
                seen.append((member.pod, member.state))
        return seen

    def _note(self, line: str) -> None:
        self.lines.append(line)
        self.on_line(line)


def pump(host: RankHost, condition: Callable[[], object]) -> None:
    """Let the head hear until the condition holds."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        host.collect()
        failure = host.take_failure()
        if failure is not None:
            raise failure
        host.sockets()[0].poll(50)  # type: ignore[union-attr]
        assert time.monotonic() < deadline, "nothing happened"


def remote_settings(folder: Path, bounds: Sequence[int], tp: Sequence[int], model: str = "") -> list[RankSettings]:
    """As ``stage_settings``, for machines that find the model by its name, and decide upon threads."""
    return [
        msgspec.structs.replace(stage, model=model or str(folder), threads=0)
        for stage in stage_settings(folder, bounds, tp)
    ]


def probe(machine: Machine, path: str) -> tuple[int, str]:
    """Status and text of a node's answer."""
    answer = httpx.get(f"http://{machine.address}:{STATUS_PORT}{path}", timeout=30, trust_env=False)
    return answer.status_code, answer.text.strip()


def wait_all_dead(processes: Sequence[psutil.Process]) -> None:
    """Until none of them runs."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while left := alive(processes):
        assert time.monotonic() < deadline, f"left: {left}"
        psutil.wait_procs(left, timeout=0.2)
