"""What the documents say of commands and files is what these are."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_the_flags_in_the_documents_are_those_of_the_command() -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "stageline_engine", "serve", "--help"],
        env={**os.environ, "COLUMNS": "120"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.rstrip()
    assert f"<!-- stageline serve --help -->\n```\n{shown}\n```" in (ROOT / "docs" / "engine.md").read_text()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_and_named_files_exist(document: Path) -> None:
    text = document.read_text()
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (document.parent / target).exists(), target
    for path in re.findall(r"`((?:engine|tests|docs|core|cli|server|stage|models|executor)/[\w/]+\.(?:py|md))`", text):
        assert (ROOT / path).exists() or (ROOT / "engine" / "stageline_engine" / path).exists(), path


def test_architecture_names_every_package() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    packages = {path.parent.name for path in (ROOT / "engine" / "stageline_engine").glob("*/__init__.py")}
    assert not {name for name in packages if f"`{name}`" not in text}
