"""Runs a command, and leaves nothing of it: `python -m stageline_engine.ray_cluster.supervisor OPTIONS… -- COMMAND…`.

    owner ─ SIGTERM, or its own end ─▶ supervisor ─ SIGTERM, then SIGKILL ─▶ command and whatever came of it

Ray's processes start others, which outlive them for seconds when one is killed. The supervisor adopts them (it is a
subreaper), so that nobody's orphans fill up a container whose first process is ours. Its end is that of its folder too.

Options: `--parent PID` of the owner, `--folder PATH` to remove at the end and to empty between runs, `--again` runs the
command again after it ended, until told to stop, `--again-unless FILE` does so unless that file is in the folder, which
tells that the command had started, `--wait-for HOST:PORT` waits before each run until somebody listens.

Nothing but the standard library and psutil is imported here: one of these stands beside every Ray node.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from stageline_engine.agent.death_signal import die_with_parent

POLITE_SECONDS = 1.2
"""From SIGTERM to SIGKILL: enough for a raylet to sign off from its head, which then need not wait for its silence."""
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 8.0
"""Between two runs of a command that ends by itself; a run of that length starts the pauses anew."""
PROBE_SECONDS = 1.0
"""How often, and for how long, somebody is looked for at the address of ``--wait-for``."""
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_STOP = (signal.SIGTERM, signal.SIGINT)
_SIGNALS = (*_STOP, signal.SIGCHLD)


class _Stopped(Exception):
    """The owner asked for the end, or has ended."""


def main(arguments: Sequence[str]) -> int:
    """Returns the exit code of the command's last run, as a shell gives it; 0 when none ended by itself."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--again-unless", default="")
    parser.add_argument("--wait-for", default="")
    parser.add_argument("command", nargs="+")
    options = parser.parse_args(arguments)
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    _adopt(options.parent)
    code = 0
    pause = FIRST_PAUSE_SECONDS
    try:
        while True:
            if options.wait_for:
                _wait_for(options.wait_for)
            began = time.monotonic()
            code = _run(options.command)
            if not options.again and (not options.again_unless or (options.folder / options.again_unless).exists()):
                return code
            print(f"ended with exit code {code}; starting again", flush=True)
            _empty(options.folder)
            pause = FIRST_PAUSE_SECONDS if time.monotonic() - began > LONGEST_PAUSE_SECONDS else pause * 2
            _pause(min(pause, LONGEST_PAUSE_SECONDS))
    except _Stopped:
        return code
    finally:
        shutil.rmtree(options.folder, ignore_errors=True)


def _adopt(parent: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    for option, value in ((_PR_SET_CHILD_SUBREAPER, 1), (_PR_SET_PDEATHSIG, signal.SIGTERM)):
        if libc.prctl(option, value, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), f"prctl({option})")
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGTERM)


def _run(command: Sequence[str]) -> int:
    """Run the command to its end, or to ours; nothing of it is left afterwards."""
    own = os.getpid()

    def in_child() -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        die_with_parent(own)

    # Safe here, since this process has one thread.
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=in_child)
    stopped = False
    deadline = None
    try:
        while True:
            code = _reap(child.pid)
            if code is not None or (deadline is not None and time.monotonic() >= deadline):
                break
            if _next_signal(None if deadline is None else deadline - time.monotonic()) and not stopped:
                stopped, deadline = True, time.monotonic() + POLITE_SECONDS
                child.send_signal(signal.SIGTERM)
    finally:
        _kill_rest()
    if stopped:
        raise _Stopped
    assert code is not None
    return code


def _next_signal(seconds: float | None) -> bool:
    """Wait for a signal; whether it asks for the end."""
    if seconds is None:
        return signal.sigwait(_SIGNALS) in _STOP
    got = signal.sigtimedwait(_SIGNALS, max(seconds, 0.0))
    return got is not None and got.si_signo in _STOP


def _reap(wanted: int) -> int | None:
    """Collect whoever has ended; the exit code of ``wanted`` if it is among them."""
    code = None
    with suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            if ended[0] == wanted:
                code = os.waitstatus_to_exitcode(ended[1])
                code = 128 - code if code < 0 else code
    return code


def _kill_rest() -> None:
    """SIGKILL to everybody below, until nobody is left: who loses a parent becomes our child."""
    while True:
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                process.kill()
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def _pause(seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        if _next_signal(left):
            raise _Stopped


def _wait_for(address: str) -> None:
    host, _, port = address.rpartition(":")
    while True:
        try:
            socket.create_connection((host, int(port)), timeout=PROBE_SECONDS).close()
        except OSError:
            _pause(PROBE_SECONDS)
        else:
            return


def _empty(folder: Path) -> None:
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
