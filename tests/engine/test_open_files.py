"""The limit of open files of a process that serves."""

from __future__ import annotations

import subprocess
import sys

SERVE_NOTHING = f"exec {sys.executable} -m stageline_engine serve /no/such/folder"
SHOW_RAISED = f"""exec {sys.executable} -c '
import resource
from stageline_engine.server.open_files import allow_open_files
allow_open_files(print)
print(*resource.getrlimit(resource.RLIMIT_NOFILE))
'"""


def with_limits(limits: str, command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["bash", "-c", f"{limits} && {command}"], capture_output=True, text=True)


def test_a_limit_too_low_for_all_requests_is_told_at_start() -> None:
    done = with_limits("ulimit -n 512", SERVE_NOTHING)
    assert done.returncode == 2
    assert "at most 512 files may be open" in done.stderr


def test_a_limit_that_suffices_is_raised_in_silence() -> None:
    done = with_limits("ulimit -Sn 64 && ulimit -Hn 8192", SHOW_RAISED)
    assert done.stdout == "8192 8192\n", done
