"""Expected outputs, kept as files beside their inputs. ``GOLDEN=write pytest …`` writes them anew: read the diff."""

from __future__ import annotations

import difflib
import os
from pathlib import Path


def assert_golden(expected: Path, actual: str) -> None:
    """Asserts that ``actual`` is what the file ``expected`` holds."""
    if os.environ.get("GOLDEN") == "write":
        expected.write_text(actual)
    wanted = expected.read_text() if expected.exists() else ""
    diff = difflib.unified_diff(wanted.splitlines(), actual.splitlines(), str(expected), "made now", lineterm="")
    assert actual == wanted, "\n".join(diff)
