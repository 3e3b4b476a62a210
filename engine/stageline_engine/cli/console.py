"""How a command speaks to a person: progress and errors on standard error, results on standard output."""

from __future__ import annotations

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


class Progress:
    """Prints a line per long step, with the seconds since the command began."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def __call__(self, message: str) -> None:
        """Print ``message`` at once."""
        print(f"[{time.monotonic() - self._began:6.1f} s] {message}", file=sys.stderr, flush=True)


def fail(error: StagelineError | OSError) -> int:
    """Print one clear line (and a rank's last log lines, if any); returns the exit code for ``error``."""
    print(f"stageline: {error}", file=sys.stderr, flush=True)
    if isinstance(error, EngineStartError):
        return error.exit_code
    if isinstance(error, PeerError):
        return EXIT_COMMUNICATION
    return 2 if isinstance(error, InvalidInputError | ConfigurationError) else 1
