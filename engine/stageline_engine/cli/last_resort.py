"""What ends a command whose own end hangs: a thread that never returns, a library that waits at exit."""

from __future__ import annotations

import os
import threading


def end_within(seconds: float, exit_code: int) -> None:
    """Begin the command's end: if the process is still there after so long, it is left as it is, with this exit code.

    What it has started is not lost: the kernel ends an engine core with its launcher, and ranks with their core.
    """
    timer = threading.Timer(seconds, os._exit, (exit_code,))
    timer.daemon = True
    timer.start()
