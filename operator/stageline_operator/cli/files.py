"""Resources from a person's YAML file, for commands that need no cluster."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import yaml
from cyclopts import Parameter

from stageline_operator.api.constants import API_VERSION, KIND
from stageline_operator.api.errors import SpecError
from stageline_operator.plan.cluster import Cluster

Body = dict[str, Any]
ClusterFlags = Annotated[Cluster, Parameter(name="*", group="What the cluster has")]
NOTHING = Cluster()


def read_resources(file: Path, namespace: str) -> list[Body]:
    """The InferenceDeployments of a file; ``-`` is stdin. Other objects in it are skipped.

    Args:
        namespace: of resources that name none.

    Raises:
        SpecError: it is not YAML, or has no InferenceDeployment.
    """
    name = str(file)
    text = sys.stdin.read() if name == "-" else file.read_text()
    try:
        found = list(_resources(yaml.safe_load_all(text)))
    except yaml.YAMLError as error:
        raise SpecError(name, ..., f"it is not YAML: {' '.join(str(error).split())}") from error
    if not found:
        raise SpecError(name, ..., f"it has no object of apiVersion {API_VERSION} and kind {KIND}")
    for body in found:
        body["metadata"].setdefault("namespace", namespace)
        body["metadata"].setdefault("generation", 1)
    return found


def _resources(documents: Iterator[Any]) -> Iterator[Body]:
    for document in documents:
        if isinstance(document, dict) and (document.get("apiVersion"), document.get("kind")) == (API_VERSION, KIND):
            if not isinstance(document.setdefault("metadata", {}), dict):
                raise SpecError("metadata", document["metadata"], "write a map with a name")
            yield document
