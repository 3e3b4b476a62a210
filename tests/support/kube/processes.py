"""Server processes of a test: started, watched, ended by process id, and ended too when the test process dies.

The kernel's "death signal of the parent" is no help here: it looks at the thread that started a child, and tests
restart components from threads that end before the session does. So one guard process waits on a pipe: when the
test process is gone, by whatever cause, the pipe closes, and the guard ends what is still listed and removes the
folder.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from signal import SIGCONT, SIGTERM, Signals

STOP_SECONDS = 10.0
"""A component that has not ended so long after SIGTERM is killed."""

_GUARD = """
import os, shutil, signal, sys
listed = set()
for line in sys.stdin:
    sign, pid = line[0], int(line[1:])
    listed.add(pid) if sign == "+" else listed.discard(pid)
for pid in listed:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
shutil.rmtree(sys.argv[1], ignore_errors=True)
"""


class Guard:
    """Ends the processes it was told of, and removes ``folder``, when this process ends or ``close`` is called."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        # A session of its own: Ctrl-C on the terminal must not end it before its work.
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-c", _GUARD, str(folder)], stdin=subprocess.PIPE, start_new_session=True
        )

    def add(self, pid: int) -> None:
        self._tell(f"+{pid}\n")

    def forget(self, pid: int) -> None:
        self._tell(f"-{pid}\n")

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(STOP_SECONDS)
        # The guard is gone after an abrupt end of its own only.
        shutil.rmtree(self._folder, ignore_errors=True)

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode())
        self._process.stdin.flush()


class ServerProcess:
    """One component: its command line, its log file, at most one process at a time."""

    def __init__(self, name: str, command: list[str], folder: Path, guard: Guard) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        self._command = command
        self._folder = folder
        self._guard = guard
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Process id; only while it runs."""
        assert self._process is not None, f"{self.name} was not started"
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        assert not self.is_running, f"{self.name} is running already"
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={"PATH": os.environ.get("PATH", ""), "HOME": str(self._folder)},
            )
        self._guard.add(self._process.pid)

    def send(self, number: Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def stop(self, number: Signals = SIGTERM) -> None:
        """Ends the process and waits for it; harmless when it has ended."""
        if self._process is None:
            return
        if self.is_running:
            self.send(number)
            self.send(SIGCONT)
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._guard.forget(self._process.pid)
        self._process = None

    def log_tail(self, lines: int = 15) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
