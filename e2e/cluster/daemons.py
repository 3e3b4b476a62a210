"""Processes that go on when the command that started them has ended: known by process id and time of start.

The time of start tells a process from a later one that was given the same id.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from pathlib import Path

from cluster.layout import STATE
from support.kube.waiting import wait_until

_LOGS = STATE / "logs"
_RECORDS = STATE / "processes"
STOP_SECONDS = 10.0


class DaemonError(RuntimeError):
    """A process ended that should go on; the text holds the end of its log."""


def start(name: str, command: list[str], environment: Mapping[str, str] | None = None) -> None:
    """Starts ``command``; what it prints goes to a log named after it."""
    for folder in (_LOGS, _RECORDS):
        folder.mkdir(parents=True, exist_ok=True)
    with log_of(name).open("ab") as log, Path("/dev/null").open("rb") as nothing:
        streams = ((nothing, 0), (log, 1), (log, 2))
        # No Popen: it takes for a mistake that a child is meant to live longer than it.
        process = os.posix_spawnp(
            command[0],
            command,
            {"PATH": os.environ["PATH"], "HOME": str(STATE), **(environment or {})},
            file_actions=[(os.POSIX_SPAWN_DUP2, source.fileno(), target) for source, target in streams],
            setsid=True,
        )
    (_RECORDS / name).write_text(f"{process} {_started(process)}")


def is_running(name: str) -> bool:
    return pid(name) is not None


def names() -> list[str]:
    """Every process that was started, in the order of their starts."""
    if not _RECORDS.exists():
        return []
    return [each.name for each in sorted(_RECORDS.iterdir(), key=lambda record: record.stat().st_mtime_ns)]


def check(name: str) -> None:
    """Raises DaemonError when the process has ended."""
    if not is_running(name):
        tail = "\n".join(log_of(name).read_text(errors="replace").splitlines()[-20:])
        raise DaemonError(f"{name} ended:\n{tail}")


def stop(name: str, how: signal.Signals = signal.SIGKILL) -> None:
    """Ends a process by ``how``, or by SIGKILL when that takes too long, and forgets it."""
    process = pid(name)
    if process is not None:
        os.kill(process, how)
        try:
            wait_until(lambda: not is_running(name), f"{name} to end", STOP_SECONDS)
        except AssertionError:
            os.kill(process, signal.SIGKILL)
            wait_until(lambda: not is_running(name), f"{name} to be killed", STOP_SECONDS)
    (_RECORDS / name).unlink(missing_ok=True)


def log_of(name: str) -> Path:
    return _LOGS / f"{name}.log"


def pid(name: str) -> int | None:
    """Process id, None when it has ended."""
    record = _RECORDS / name
    if not record.exists():
        return None
    number, started = record.read_text().split()
    return int(number) if _started(int(number)) == started else None


def _started(process: int) -> str | None:
    """Clock ticks between the boot and the start of a process; None when it has ended."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else fields[19]
