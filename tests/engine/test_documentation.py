"""What the documents say of commands and files is what these are."""

from __future__ import annotations

import itertools
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from stageline_engine.cli.main import app as engine
from stageline_operator.cli.main import app as operator

ROOT = Path(__file__).parents[2]
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]


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
    for target, anchor in re.findall(r"\]\(([^):#\s]*)#?([^):\s]*)\)", text):
        file = document.parent / target if target else document
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), f"{target}#{anchor}"
    for path in re.findall(r"`((?:engine|tests|docs|core|cli|server|stage|models|executor)/[\w/]+\.(?:py|md))`", text):
        assert (ROOT / path).exists() or (ROOT / "engine" / "stageline_engine" / path).exists(), path


def anchors(document: Path) -> set[str]:
    """Places in a page that a link may name: its headings, as GitHub names them, and marks of its own."""
    text = re.sub(r"^```.*?^```", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    named = {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}
    return named | set(re.findall(r'<a id="([^"]+)">', text))


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    assert [page.name for page in (ROOT / "docs").glob("[a-z]*.md") if f"]({page.name})" not in index] == []


def written_commands() -> Iterator[tuple[str, str]]:
    """Every command line of ours in the documents, with the page that it is in."""
    for document in DOCUMENTS:
        for line in re.findall(r"^    (stageline(?:-operator)? [^\n]*)", document.read_text(), re.MULTILINE):
            # Of what may be left out, the first of several ways.
            yield document.name, re.sub(r"\[([^|\]]*)[^\]]*\]", r"\1", line)


@pytest.mark.parametrize(("page", "line"), list(written_commands()))
def test_the_commands_in_the_documents_are_understood(page: str, line: str) -> None:
    program, *words = shlex.split(line, comments=True)
    arguments = list(itertools.takewhile(lambda word: word not in ("2>&1", "|"), words))
    app = {"stageline": engine, "stageline-operator": operator}[program]
    app.parse_args(arguments, exit_on_error=False, print_error=False)


def test_architecture_names_every_package() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    packages = {path.parent.name for path in (ROOT / "engine" / "stageline_engine").glob("*/__init__.py")}
    assert not {name for name in packages if f"`{name}`" not in text}
