"""Pods that the restricted Pod Security Standard allows, for tests of the control plane itself."""

from __future__ import annotations

from typing import Any


def restricted_pod(name: str, namespace: str, **spec: Any) -> dict[str, Any]:
    """A pod of one container with a port named ``status``; ``spec`` adds to the pod's spec or replaces parts of it."""
    container = {
        "name": "main",
        "image": "example/main",
        "ports": [{"name": "status", "containerPort": 8081}],
        "resources": {"requests": {"cpu": "1", "memory": "1Gi"}},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    security = {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "securityContext": security,
            "containers": [container],
            "terminationGracePeriodSeconds": 5,
            "automountServiceAccountToken": False,
            **spec,
        },
    }
