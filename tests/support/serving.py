"""`stageline serve` as a user runs it: a real process, found through its own output."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

import httpx
import psutil

READY = re.compile(r"ready: (\S+) on (http://\S+)\. Paste")


def alive(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Those that still run. One that was killed and whom nobody has reaped yet does not: who inherits it does so in its
    own time."""
    found = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


class Served:
    """A running server; ``url`` is its address, ``log`` everything it has printed so far."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        self.url = ""
        self.model = ""
        self._ready = threading.Event()
        self._printed = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def log(self) -> str:
        return "\n".join(self.lines)

    def wait_ready(self, timeout: float = 120) -> None:
        assert self._ready.wait(timeout), f"not ready:\n{self.log}"
        assert self.url, f"ended before it was ready (exit code {self.process.wait()}):\n{self.log}"

    def wait_line(self, text: str, timeout: float = 120) -> None:
        """Until a line with ``text`` has been printed."""
        with self._printed:
            assert self._printed.wait_for(lambda: any(text in line for line in self.lines), timeout), self.log

    def wait_lines(self, text: str, count: int, timeout: float = 120) -> None:
        """Until so many lines with ``text`` have been printed."""
        with self._printed:
            assert self._printed.wait_for(lambda: sum(text in line for line in self.lines) >= count, timeout), self.log

    def wait_exit(self, timeout: float = 60) -> int:
        code = self.process.wait(timeout)
        self._reader.join(timeout)
        return code

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def family(self) -> list[psutil.Process]:
        """This server and every process below it."""
        server = psutil.Process(self.process.pid)
        return [server, *server.children(recursive=True)]

    def ranks(self) -> list[psutil.Process]:
        """Rank processes: those without children whose parent is the fork parent."""
        return [
            process
            for process in self.family()
            if (parent := process.parent()) is not None and any("fork_parent" in part for part in parent.cmdline())
        ]

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=60)

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._printed:
                self.lines.append(line.rstrip())
                self._printed.notify_all()
            if (found := READY.search(line)) is not None:
                self.model, self.url = found.groups()
                self._ready.set()
        self._ready.set()


@contextlib.contextmanager
def serving(model: Path | str, *flags: str, env: dict[str, str] | None = None) -> Iterator[Served]:
    """Run ``stageline serve MODEL`` on a port chosen by the system; ends it (and what it left) afterwards."""
    served = start_serving(model, *flags, env=env)
    try:
        yield served
    finally:
        end(served)


def start_serving(model: Path | str, *flags: str, env: dict[str, str] | None = None) -> Served:
    command = [sys.executable, "-m", "stageline_engine", "serve", str(model)]
    if "--port" not in flags:
        command += ["--port", "0"]
    process = subprocess.Popen(
        [*command, *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **(env or {})},
    )
    return Served(process)


def end(served: Served) -> None:
    if served.process.poll() is None:
        family = served.family()
        served.process.terminate()
        try:
            served.process.wait(10)
        except subprocess.TimeoutExpired:
            served.process.kill()
            served.process.wait()
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
    served._reader.join(5)
    assert served.process.stdout is not None
    served.process.stdout.close()
