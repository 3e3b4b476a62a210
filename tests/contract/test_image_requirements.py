"""The images hold what the tests ran with, and another build of torch where one is asked for."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
REQUIREMENTS = ROOT / "requirements"


@pytest.mark.parametrize("file", ["operator.txt", "engine.txt", "torch.txt"])
def test_every_version_in_an_image_is_the_one_that_tests_run_with(file: str) -> None:
    tested = set((REQUIREMENTS / "dev.txt").read_text().splitlines())
    shipped = set((REQUIREMENTS / file).read_text().splitlines())
    assert shipped - tested == set(), "run `make requirements`"


def test_the_operators_image_has_no_torch() -> None:
    assert not any(line.startswith(("torch", "nvidia")) for line in (REQUIREMENTS / "operator.txt").read_text().split())


@pytest.mark.parametrize("label", [None, "cpu"])
def test_another_index_of_torch_gives_its_build_and_nothing_of_nvidias(label: str | None, tmp_path: Path) -> None:
    (version,) = re.findall(r"^torch==(.*)$", (REQUIREMENTS / "torch.txt").read_text(), re.MULTILINE)
    _write_wheel(tmp_path / "pypi" / "torch", f"torch-{version}", "nvidia-cublas")
    _write_wheel(tmp_path / "cpu" / "torch", f"torch-{version}+cpu", "filelock")
    (locked,) = re.findall(r"^filelock==(.*)$", (REQUIREMENTS / "torch.txt").read_text(), re.MULTILINE)
    _write_wheel(tmp_path / "pypi" / "filelock", f"filelock-{locked}", None)
    build = {"TORCH_INDEX": (tmp_path / "cpu").as_uri(), "TORCH": f"torch=={version}+{label}" if label else "torch"}
    (command,) = re.findall(r"/bin/pip (install [^&]*?\"\${TORCH}\")", (ROOT / "Dockerfile").read_text(), re.DOTALL)
    command = command.replace("/opt/stageline/requirements", shlex.quote(str(REQUIREMENTS)))
    shown = subprocess.run(
        ["bash", "-ec", f"{shlex.quote(sys.executable)} -m pip {command} --dry-run --ignore-installed"],
        env={**build, "PATH": "/usr/bin:/bin", "PIP_CONFIG_FILE": "/dev/null"}
        | {"PIP_INDEX_URL": (tmp_path / "pypi").as_uri()},
        capture_output=True,
        text=True,
    )
    assert shown.returncode == 0, shown.stderr
    taken = shown.stdout.strip().splitlines()[-1].removeprefix("Would install ")
    assert sorted(taken.split()) == [f"filelock-{locked}", f"torch-{version}+cpu"]


def _write_wheel(folder: Path, name: str, needs: str | None) -> None:
    folder.mkdir(parents=True)
    package, version = name.split("-")
    requires = f"Requires-Dist: {needs}\n" if needs else ""
    with zipfile.ZipFile(folder / f"{name}-py3-none-any.whl", "w") as wheel:
        metadata = f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n{requires}"
        wheel.writestr(f"{name}.dist-info/METADATA", metadata)
        wheel.writestr(f"{name}.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{name}.dist-info/RECORD", "")
    # The page of a package, as an index has it: pip takes an index from a folder too.
    (folder / "index.html").write_text(f'<!DOCTYPE html><a href="{name}-py3-none-any.whl">{name}-py3-none-any.whl</a>')
