"""InferenceDeployments as a user writes them: the examples of the documentation, as they are or with a change."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from user.kubectl import Kubectl, Object

EXAMPLES = Path(__file__).parents[2] / "examples"


def apply_example(kubectl: Kubectl, namespace: str, file: str, **changes: object) -> None:
    """`kubectl apply` of an example; ``changes`` are fields of its spec.

    Raises:
        KubectlError: the API server refuses it.
    """
    if not changes:
        kubectl("apply", "-n", namespace, "-f", str(EXAMPLES / file))
        return
    body: Object = yaml.safe_load((EXAMPLES / file).read_text())
    body["spec"].update(changes)
    kubectl("apply", "-n", namespace, "-f", "-", text=json.dumps(body))


def condition(kubectl: Kubectl, namespace: str, kind: str) -> Object:
    """The only resource's condition of ``kind``, empty when there is none yet."""
    [resource] = kubectl.list("infdep", namespace)
    found = [each for each in resource.get("status", {}).get("conditions", []) if each["type"] == kind]
    return found[0] if found else {}
