"""The objects that a workload ends with, without what differs between two runs of the same."""

from __future__ import annotations

import json
import re
from typing import Any

from support.kube.api import Object
from support.running.scene import CHILD_KINDS, MANAGED, Scene

_MADE_BY_SERVER = (
    "uid",
    "resourceVersion",
    "creationTimestamp",
    "generation",
    "managedFields",
    "ownerReferences",
    "namespace",
    "generateName",
)


def end_state(scene: Scene) -> Any:
    """All children and the status."""
    resource = scene.api.find("inferencedeployments", "demo", scene.namespace)
    uid = resource["metadata"]["uid"] if resource is not None else "no uid"
    found = {
        f"{kind}/{each['metadata']['name']}".replace(uid, "UID"): _stripped(
            each, {scene.namespace: "NAMESPACE", uid: "UID"}
        )
        for kind in CHILD_KINDS
        for each in scene.api.list(kind, scene.namespace, MANAGED)
    }
    return found | ({"status": _status(resource)} if resource is not None else {})


def difference(wanted: object, found: object, path: str = "") -> str:
    """The leaves that are in one and not in the other; "" when there are none."""
    if isinstance(wanted, dict) and isinstance(found, dict):
        keys = sorted(wanted.keys() | found.keys())
        parts = (difference(wanted.get(key), found.get(key), f"{path}.{key}") for key in keys)
        return "; ".join(part for part in parts if part)
    if isinstance(wanted, list) and isinstance(found, list) and len(wanted) == len(found):
        parts = (difference(*pair, f"{path}[{index}]") for index, pair in enumerate(zip(wanted, found, strict=True)))
        return "; ".join(part for part in parts if part)
    return "" if wanted == found else f"{path}: wanted {wanted}, found {found}"


def _stripped(body: Object, names: dict[str, str]) -> Any:
    kept = {key: value for key, value in body.items() if key not in ("status", "data", "apiVersion", "kind")}
    meta = {key: value for key, value in body["metadata"].items() if key not in _MADE_BY_SERVER}
    text = json.dumps({**kept, "metadata": meta}, sort_keys=True)
    if "nodeName" in kept.get("spec", {}):
        names = {**names, kept["spec"]["nodeName"]: "NODE"}
    for name, stands_for in names.items():
        text = text.replace(name, stands_for)
    text = re.sub(r'"clusterIPs?": (\[[^]]*\]|"[^"]*")', '"clusterIP": "IP"', text)
    return json.loads(text)


def _status(resource: Object) -> Any:
    """What it says, but for when something was, and how often it was tried."""
    status = resource["status"]
    return {
        "phase": status["phase"],
        "ready": status["ready"],
        "revision": status["currentRevision"],
        "conditions": sorted((each["type"], each["status"], each["reason"]) for each in status["conditions"]),
        "plan": status["plan"],
        "effective": status["effective"],
        "replicas": sorted(
            [
                replica["phase"],
                replica["epoch"],
                replica["head"].get("pod", ""),
                *(stage.get("pod", "") for stage in replica.get("stages", ())),
            ]
            for replica in status.get("replicaList", ())
        ),
    }
