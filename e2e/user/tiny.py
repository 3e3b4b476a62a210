"""A model of random weights that a pod has loaded in seconds: its files are a ConfigMap, which pods see as a folder."""

from __future__ import annotations

import atexit
import functools
import json
import shutil
import tempfile
from pathlib import Path

from support.tiny_models import make_tiny_model
from user.kubectl import Kubectl, Object

IMAGE = "stageline/engine:0.1.0"
MAX_MODEL_LEN = 2048
"""Long enough for answers that take seconds."""
PLACE = "/models/tiny"
"""The model's folder in pods."""


def apply(kubectl: Kubectl, namespace: str, name: str, *, family: str = "llama", **changes: Object | int | str) -> None:
    """`kubectl apply` of a tiny model's resource, served as ``name``; ``changes`` are merged into its spec.

    Raises:
        KubectlError: the API server refuses it.
    """
    give(kubectl, namespace, family)
    body = resource(name, family=family, **changes)
    kubectl("apply", "-n", namespace, "-f", "-", text=json.dumps(body))


def resource(name: str, *, family: str = "llama", **changes: Object | int | str) -> Object:
    """The resource: one replica of two stages of so little that several of them fit two small nodes."""
    spec: Object = {
        "model": {"source": f"file://{PLACE}", "servedName": name},
        "image": IMAGE,
        "pipeline": {"stages": 2, "stageDefaults": {"resources": _resources(memory="1536Mi")}},
        "head": {"resources": _resources(memory="1536Mi")},
        "engine": {"device": "cpu", "threads": 1, "maxModelLen": MAX_MODEL_LEN, "maxNumSeqs": 16},
        "podTemplate": {
            "volumes": [{"name": "model", "configMap": {"name": config_map(family)}}],
            "volumeMounts": [{"name": "model", "mountPath": PLACE, "readOnly": True}],
        },
    }
    return {
        "apiVersion": "stageline.dev/v1alpha1",
        "kind": "InferenceDeployment",
        "metadata": {"name": name},
        "spec": _merged(spec, changes),
    }


def give(kubectl: Kubectl, namespace: str, family: str = "llama") -> None:
    """Puts the model's files into the namespace, unless they are there."""
    name = config_map(family)
    if name not in [each["metadata"]["name"] for each in kubectl.list("configmaps", namespace)]:
        kubectl("create", "configmap", name, "-n", namespace, f"--from-file={folder(family)}")


@functools.cache
def folder(family: str = "llama") -> Path:
    """The model's files on this machine, made once and removed when the tests end."""
    place = _home() / family
    make_tiny_model(family, place, max_position_embeddings=MAX_MODEL_LEN)
    return place


@functools.cache
def _home() -> Path:
    home = Path(tempfile.mkdtemp(prefix="e2e-models-"))
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    return home


def config_map(family: str = "llama") -> str:
    """Name of the ConfigMap with the model's files."""
    return f"tiny-{family}"


def _resources(memory: str) -> Object:
    return {"requests": {"cpu": "50m", "memory": "256Mi"}, "limits": {"memory": memory}}


def _merged(base: Object, changes: Object) -> Object:
    """``base`` with ``changes``, key by key; what is no map is replaced."""
    merged = dict(base)
    for key, value in changes.items():
        before = merged.get(key)
        merged[key] = _merged(before, value) if isinstance(before, dict) and isinstance(value, dict) else value
    return merged
