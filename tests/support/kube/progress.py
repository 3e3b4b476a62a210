"""Progress lines of the slow steps, on standard error so that they never mix with what a command prints."""

from __future__ import annotations

import sys


def say(message: str) -> None:
    print(f"[kube] {message}", file=sys.stderr, flush=True)
