"""Prints docs/modules.md: each module of both packages with the first sentence of its docstring."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = (ROOT / "engine" / "stageline_engine", ROOT / "operator" / "stageline_operator")
HEAD = """# Modules

Made from the docstrings by `make generate`. Packages and what they may import: [architecture.md](architecture.md).
"""


def page() -> str:
    """The whole page."""
    return HEAD + "".join(_package(package) for package in PACKAGES)


def _package(package: Path) -> str:
    lines = []
    for folder in sorted({path.parent for path in package.rglob("*.py")}):
        modules = sorted(path for path in folder.glob("*.py") if path.name != "__init__.py")
        level = "##" if folder == package else "###"
        lines.append(f"\n{level} {folder.relative_to(package.parent)}\n\n{_sentence(folder / '__init__.py')}\n")
        if modules:
            lines.append("\n| module | |\n|---|---|\n")
        lines += [f"| `{path.stem}` | {_sentence(path)} |\n" for path in modules]
    return "".join(lines)


def _sentence(path: Path) -> str:
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    paragraph = " ".join(text.split("\n\n")[0].split())
    sentence = re.split(r"(?<=[.!?:]) (?=[A-Z])", paragraph)[0]
    sentence = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", sentence).replace("``", "`").replace("|", "\\|")
    return sentence.removesuffix(":").removesuffix(".") + "."


if __name__ == "__main__":
    print(page(), end="")
