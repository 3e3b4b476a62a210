"""docs/sbom/: the bills of materials list what the images' requirements list."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SBOM = ROOT / "docs" / "sbom"
FILES = {"operator": ("operator.txt",), "engine": ("torch.txt", "engine.txt", "models.txt")}


@pytest.mark.parametrize("image", FILES)
def test_an_image_holds_what_its_requirements_list(image: str) -> None:
    required = {line for file in FILES[image] for line in (ROOT / "requirements" / file).read_text().splitlines()}
    body = json.loads((SBOM / f"{image}.json").read_text())
    packages = [each["purl"].removeprefix("pkg:pypi/").replace("@", "==") for each in body["components"]]
    assert set(packages) == required, "run `make sbom`"
    assert len(packages) == len(required)


def test_these_are_the_requirements_that_the_dockerfile_installs() -> None:
    installed = set(re.findall(r"^COPY requirements/(\S+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE))
    assert installed - {"build.txt"} == {file for files in FILES.values() for file in files}


@pytest.mark.parametrize("file", sorted(SBOM.glob("*.json")), ids=lambda path: path.stem)
def test_it_names_neither_addresses_nor_folders(file: Path) -> None:
    text = file.read_text()
    assert "://" not in text
    assert re.findall(r'"[^"]*(?<![\w.)])/(?:home|opt|root|tmp|usr|var|work)/[^"]*"', text) == []
