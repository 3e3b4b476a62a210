"""docs/modules.md is what the docstrings say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def test_the_page_of_modules_is_made_from_their_docstrings() -> None:
    made = subprocess.run([sys.executable, DOCS / "make_modules.py"], capture_output=True, text=True, check=True).stdout
    assert (DOCS / "modules.md").read_text() == made, "run make generate"


def test_every_module_has_a_line() -> None:
    lines = (DOCS / "modules.md").read_text().splitlines()
    assert [line for line in lines if line.endswith(("| . |", "|  |"))] == []
