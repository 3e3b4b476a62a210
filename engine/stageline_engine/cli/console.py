"""How a command speaks: progress and errors on standard error, results on standard output.

With ``--log-format json`` progress and errors are log lines, for a machine reads them.
"""

from __future__ import annotations

import logging
import os
import sys
import time

from stageline_engine.core.errors import (
    EXIT_COMMUNICATION,
    ConfigurationError,
    EngineStartError,
    InvalidInputError,
    PeerError,
    StagelineError,
)
from stageline_engine.core.logs import FORMATS, LEVELS, POD, is_json, set_up_logging
from stageline_engine.node.options import POD_NAME

_log = logging.getLogger("stageline")


def begin_logging(level: str, log_format: str, role: str, **fields: int) -> None:
    """Log as the flags say, before anything else: what is wrong with the other flags is told so, too.

    Raises:
        ConfigurationError: one of the two flags has another value than those that there are.
    """
    for flag, value, allowed in (("--log-level", level, LEVELS), ("--log-format", log_format, FORMATS)):
        if value not in allowed:
            raise ConfigurationError(flag, value, f"give one of {', '.join(allowed)}")
    pod = os.environ.get(POD_NAME)
    set_up_logging(level, log_format, role, **fields, **({POD: pod} if pod else {}))


class Progress:
    """Prints a line per long step, with the seconds since the command began."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def __call__(self, message: str) -> None:
        """Print ``message`` at once."""
        if is_json():
            _log.info("%s", message)
            return
        print(f"[{time.monotonic() - self._began:6.1f} s] {message}", file=sys.stderr, flush=True)


def fail(error: StagelineError | OSError) -> int:
    """Print one clear line (and a rank's last log lines, if any); returns the exit code for ``error``."""
    if is_json():
        _log.error("%s", error)
    else:
        print(f"stageline: {error}", file=sys.stderr, flush=True)
    if isinstance(error, EngineStartError):
        return error.exit_code
    if isinstance(error, PeerError):
        return EXIT_COMMUNICATION
    return 2 if isinstance(error, InvalidInputError | ConfigurationError) else 1
