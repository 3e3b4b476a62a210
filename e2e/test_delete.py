"""A user removes what they applied."""

from __future__ import annotations

import pytest

from support.kube.waiting import wait_until
from user.kubectl import Kubectl
from user.resources import apply_example

KINDS = ("pods", "services", "poddisruptionbudgets", "networkpolicies", "secrets", "controllerrevisions")


@pytest.mark.core
def test_deleting_a_resource_removes_all_its_objects(kubectl: Kubectl, stageline: None, namespace: str) -> None:
    apply_example(kubectl, namespace, "cpu-demo.yaml")
    wait_until(lambda: len(_objects(kubectl, namespace, "pods")) == 3, "the pods", patience=60, interval=0.5)
    assert all(_objects(kubectl, namespace, kind) for kind in KINDS)
    kubectl("delete", "-n", namespace, "infdep", "demo", "--timeout=60s")
    # Heads take what is in flight to its end before they go.
    wait_until(lambda: not any(_objects(kubectl, namespace, kind) for kind in KINDS), "no object", 120, interval=0.5)


def _objects(kubectl: Kubectl, namespace: str, kind: str) -> list[str]:
    found = kubectl.list(kind, namespace, "app.kubernetes.io/managed-by=stageline-operator")
    return [each["metadata"]["name"] for each in found]
