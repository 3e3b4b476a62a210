"""Where each process of the engine logs, and how a line looks."""

from __future__ import annotations

import logging
import sys

LEVELS = ("debug", "info", "warning", "error")


def set_up_logging(level: str | int) -> None:
    """Log to standard error from ``level`` on (one of :data:`LEVELS`, or logging's number of it)."""
    logging.basicConfig(
        level=level.upper() if isinstance(level, str) else level,
        stream=sys.stderr,
        format="%(levelname)s %(name)s: %(message)s",
        force=True,
    )
