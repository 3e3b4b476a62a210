"""A command whose own end hangs."""

from __future__ import annotations

import subprocess
import sys


def test_a_thread_that_never_returns_does_not_keep_a_command() -> None:
    program = (
        "import sys, threading; from stageline_engine.cli.last_resort import end_within\n"
        "threading.Thread(target=threading.Event().wait).start()\n"
        "end_within(0.1, 130)\n"
        "sys.exit(130)"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == 130


def test_a_command_that_ends_by_itself_is_not_disturbed() -> None:
    program = "from stageline_engine.cli.last_resort import end_within; end_within(3600, 130)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
