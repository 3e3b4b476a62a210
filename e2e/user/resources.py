"""InferenceDeployments as a user writes and watches them."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from support.kube.waiting import wait_until
from user.kubectl import Kubectl, Object

EXAMPLES = Path(__file__).parents[2] / "examples"
READY_SECONDS = 300.0
"""A tiny model takes a tenth of it on idle cores."""


def apply_example(kubectl: Kubectl, namespace: str, file: str, **changes: object) -> None:
    """`kubectl apply` of an example of the documentation; ``changes`` are fields of its spec.

    Raises:
        KubectlError: the API server refuses it.
    """
    if not changes:
        kubectl("apply", "-n", namespace, "-f", str(EXAMPLES / file))
        return
    body: Object = yaml.safe_load((EXAMPLES / file).read_text())
    body["spec"].update(changes)
    kubectl("apply", "-n", namespace, "-f", "-", text=json.dumps(body))


def get(kubectl: Kubectl, namespace: str, name: str) -> Object:
    """The resource as the server has it."""
    found: Object = json.loads(kubectl("get", "infdep", name, "-n", namespace, "-o", "json"))
    return found


def wait_settled(kubectl: Kubectl, namespace: str, name: str, seconds: float = READY_SECONDS) -> Object:
    """The resource once all replicas that the newest spec asks for are ready, and nothing is left to do."""
    last: Object = {}

    def settled() -> bool:
        last.update(get(kubectl, namespace, name))
        status = last.get("status", {})
        wanted = last["spec"].get("replicas", 1)
        return bool(
            status.get("observedGeneration") == last["metadata"]["generation"]
            and status["phase"] == "Ready"
            and status["settledRevision"] == status["currentRevision"]
            and len(status.get("replicaList", [])) == wanted
        )

    wait_until(settled, f"{name} to be as its spec says", seconds, interval=0.5)
    return last


def pods(kubectl: Kubectl, namespace: str, name: str, role: str = "head,stage") -> list[Object]:
    """The resource's pods of a role, those that end included."""
    return kubectl.list("pods", namespace, f"stageline.dev/name={name},stageline.dev/role in ({role})")


def restarts(kubectl: Kubectl, namespace: str, name: str) -> dict[str, int]:
    """How often the container of each of its pods was restarted, by the pod's unique id."""
    counts = {}
    for pod in pods(kubectl, namespace, name):
        statuses = pod["status"].get("containerStatuses", [])
        counts[pod["metadata"]["uid"]] = sum(each["restartCount"] for each in statuses)
    return counts


def condition(kubectl: Kubectl, namespace: str, kind: str) -> Object:
    """The only resource's condition of ``kind``, empty when there is none yet."""
    [resource] = kubectl.list("infdep", namespace)
    found = [each for each in resource.get("status", {}).get("conditions", []) if each["type"] == kind]
    return found[0] if found else {}
