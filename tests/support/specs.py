"""Tables of resources that are to be refused or accepted (tests/operator/specs), and the definition that does so."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from support.kube.api import KubeApi, Object
from support.kube.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
TABLES = ROOT / "tests" / "operator" / "specs"
CRD_FILE = ROOT / "crds" / "inferencedeployments.stageline.dev.yaml"

Case = dict[str, Any]


def cases(table: str) -> list[Case]:
    """The entries of a table, by its file's name."""
    loaded: list[Case] = yaml.safe_load((TABLES / f"{table}.yaml").read_text())
    return loaded


def resource(changes: Mapping[str, Any], namespace: str = "default") -> Object:
    """base.yaml with values written at dotted paths; null takes a field away."""
    body: Object = copy.deepcopy(yaml.safe_load((TABLES / "base.yaml").read_text()))
    body["metadata"]["namespace"] = namespace
    for path, value in changes.items():
        *parents, last = path.split(".")
        place = body
        for parent in parents:
            place = place.setdefault(parent, {})
        if value is None:
            place.pop(last, None)
        else:
            place[last] = copy.deepcopy(value)
    return body


def resource_of(case: Case, namespace: str = "default") -> Object:
    """The resource that a case stands for: ``set`` writes values, ``repeat`` writes ``[value, times]`` multiplied."""
    repeated = {path: value * times for path, (value, times) in case.get("repeat", {}).items()}
    return resource({**case.get("set", {}), **repeated}, namespace)


def examples() -> list[tuple[str, Object]]:
    """All objects of examples/ with their file's name."""
    return [
        (file.name, body)
        for file in sorted((ROOT / "examples").glob("*.yaml"))
        for body in yaml.safe_load_all(file.read_text())
    ]


def install_crd(api: KubeApi) -> None:
    """Install the definition, and wait until the server serves it; harmless where it is there already."""
    api.apply(yaml.safe_load(CRD_FILE.read_text()))
    name = yaml.safe_load(CRD_FILE.read_text())["metadata"]["name"]
    wait_until(lambda: _is_served(api, name), "the definition to be served")


def _is_served(api: KubeApi, name: str) -> bool:
    crd = api.get("customresourcedefinitions.apiextensions.k8s.io", name)
    conditions = crd.get("status", {}).get("conditions", [])
    return any(condition["type"] == "Established" and condition["status"] == "True" for condition in conditions)
