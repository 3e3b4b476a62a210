"""One fake node: its Node object and its Lease."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from support.kube.pod_status import now

LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"


@dataclass(frozen=True)
class NodeShape:
    """What a node offers."""

    cpu: str = "64"
    memory: str = "256Gi"
    gpus: int = 0
    pods: int = 500
    labels: Mapping[str, str] = field(default_factory=dict)
    taints: Sequence[Mapping[str, str]] = ()


class FakeNode:
    """A node's name, shape, and whether it is up."""

    def __init__(self, name: str, shape: NodeShape, version: str) -> None:
        self.name = name
        self._shape = shape
        self._version = version
        self.is_up = asyncio.Event()
        self.is_up.set()

    def node(self) -> dict[str, Any]:
        resources = {"cpu": self._shape.cpu, "memory": self._shape.memory, "pods": str(self._shape.pods)}
        resources["ephemeral-storage"] = "1Ti"
        if self._shape.gpus:
            resources["nvidia.com/gpu"] = str(self._shape.gpus)
        labels = {"kubernetes.io/hostname": self.name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"}
        return {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": self.name, "labels": labels | dict(self._shape.labels)},
            "spec": {"taints": [dict(each) for each in self._shape.taints]},
            "status": {
                "capacity": resources,
                "allocatable": resources,
                "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
                "nodeInfo": self._info(),
                **self.ready_status(),
            },
        }

    def ready_status(self) -> dict[str, Any]:
        """The conditions of a node in good health."""
        when = now()
        healthy = {"MemoryPressure": "False", "DiskPressure": "False", "PIDPressure": "False", "Ready": "True"}
        return {
            "conditions": [
                {
                    "type": name,
                    "status": status,
                    "reason": "FakeKubelet",
                    "lastHeartbeatTime": when,
                    "lastTransitionTime": when,
                }
                for name, status in healthy.items()
            ]
        }

    def lease(self) -> dict[str, Any]:
        return {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": self.name, "namespace": "kube-node-lease"},
            "spec": {"holderIdentity": self.name, "leaseDurationSeconds": 40, "renewTime": _micro_time()},
        }

    def renewal(self) -> dict[str, Any]:
        """A merge patch of the Lease."""
        return {"spec": {"renewTime": _micro_time()}}

    def _info(self) -> dict[str, str]:
        return {
            "architecture": "amd64",
            "bootID": self.name,
            "containerRuntimeVersion": "fake://1",
            "kernelVersion": "fake",
            "kubeProxyVersion": "",
            "kubeletVersion": f"v{self._version}",
            "machineID": self.name,
            "operatingSystem": "linux",
            "osImage": "fake",
            "systemUUID": self.name,
        }


def _micro_time() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
