"""The operator as a process, as in its pod: started, stopped, killed, frozen, and started again when it ends."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from signal import SIGCONT, SIGKILL, SIGSTOP, SIGTERM
from typing import Self

from support.kube.waiting import wait_until

STOP_SECONDS = 30.0
_PORT = re.compile(r"metrics and probes on port (\d+)")
_ROOT = Path(__file__).parents[3]


class OperatorProcess:
    """One operator.

    Args:
        namespace: where its Lease is, and what it serves unless it is ``cluster_wide``.
        restart: it is started again whenever it ends by itself, as a kubelet would.
    """

    def __init__(
        self,
        kubeconfig: Path,
        folder: Path,
        namespace: str,
        *arguments: str,
        restart: bool = True,
        cluster_wide: bool = False,
        name: str = "operator",
    ) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        self._command = [
            sys.executable,
            "-m",
            "stageline_operator",
            "run",
            f"--kubeconfig={kubeconfig}",
            *(() if cluster_wide else (f"--namespace={namespace}",)),
            f"--lease-namespace={namespace}",
            f"--identity={name}",
            "--host=127.0.0.1",
            "--port=0",
            *arguments,
        ]
        if not any(each.startswith("--log-level") for each in arguments):
            self._command.append("--log-level=debug")
        self._restart = restart
        self._is_wanted = False
        self._process: subprocess.Popen[bytes] | None = None
        self._watchdog: threading.Thread | None = None
        self._lock = threading.Lock()
        self.exits: list[int] = []
        """Exit codes of processes that ended by themselves or were killed."""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        with self._lock:
            assert not self.is_running
            self._is_wanted = True
            self._spawn()
        self._watchdog = threading.Thread(target=self._watch, daemon=True)
        self._watchdog.start()

    def ask_to_stop(self) -> None:
        """SIGTERM, without waiting; ``stop`` waits."""
        with self._lock:
            assert self._process is not None
            self._is_wanted = False
            self._process.send_signal(SIGTERM)

    def stop(self) -> int:
        """SIGTERM; returns the exit code."""
        return self._end(SIGTERM)

    def kill(self) -> None:
        """SIGKILL, and no new start."""
        self._end(SIGKILL)

    def crash(self) -> None:
        """SIGKILL from any thread, without waiting; it is started again as configured."""
        with self._lock:
            if self._process is not None:
                self._process.send_signal(SIGKILL)

    def freeze(self) -> None:
        assert self._process is not None
        self._process.send_signal(SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(SIGCONT)

    def wait_exits(self, count: int, patience: float = 60.0) -> None:
        """Until it has ended by itself so often since its start."""
        wait_until(lambda: len(self.exits) >= count, f"exit {count} of the operator:\n{self.log_tail()}", patience)

    def wait_ready(self) -> None:
        """Until it has seen everything that is in the cluster."""
        wait_until(lambda: self.get("/ready") == 200, f"the operator to be ready:\n{self.log_tail()}")

    def wait_leading(self, patience: float = 60.0) -> None:
        wait_until(self.is_leading, f"the operator to lead:\n{self.log_tail()}", patience)

    def is_leading(self) -> bool:
        return self.is_running and self.metric("stageline_operator_leading") == 1

    def get(self, path: str) -> int:
        """Status of a probe; 0 while nobody answers."""
        return self._ask(path)[0]

    def metric(self, line: str) -> float:
        """Value of a metric by name and labels as exposed; 0 where there is none."""
        _, text = self._ask("/metrics")
        found = [each.rpartition(" ")[2] for each in text.splitlines() if each.rpartition(" ")[0] == line]
        return float(found[0]) if found else 0.0

    @property
    def port(self) -> int:
        """The port of the process that runs now."""
        ports = _PORT.findall(self._new_log())
        return int(ports[-1]) if ports else 1

    def log_tail(self, lines: int = 40) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def _ask(self, path: str) -> tuple[int, str]:
        """Status and body; 0 and "" while nobody answers. Asked often, so without a client that takes long to make."""
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)) as connection:
            try:
                connection.request("GET", path)
                answer = connection.getresponse()
                return answer.status, answer.read().decode()
            except (OSError, http.client.HTTPException):
                return 0, ""

    def _new_log(self) -> str:
        with self.log.open("rb") as file:
            file.seek(self._log_start)
            return file.read().decode(errors="replace")

    def _spawn(self) -> None:
        paths = os.pathsep.join([str(_ROOT / "engine"), str(_ROOT / "operator")])
        self.log.touch()
        self._log_start = self.log.stat().st_size
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, "PYTHONPATH": paths},
            )

    def _watch(self) -> None:
        while True:
            process = self._process
            assert process is not None
            code = process.wait()
            with self._lock:
                self.exits.append(code)
                if not (self._is_wanted and self._restart):
                    return
                self._spawn()

    def _end(self, number: int) -> int:
        with self._lock:
            # A second SIGTERM would end it by force where it has done its work and takes its handlers down.
            was_asked, self._is_wanted = not self._is_wanted, False
            process, watchdog = self._process, self._watchdog
            assert process is not None and watchdog is not None
            if process.poll() is None and not (was_asked and number is SIGTERM):
                process.send_signal(number)
                process.send_signal(SIGCONT)
        try:
            code = process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            watchdog.join()
            raise AssertionError(f"the operator did not end within {STOP_SECONDS} s:\n{self.log_tail()}") from None
        watchdog.join()
        return code
