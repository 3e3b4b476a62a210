"""Names, addresses and folders of the cluster: what two of its parts have to agree on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from support.kube.parts import cache_folder

STATE = Path("/var/lib/stageline-cluster")
"""Everything of a running cluster; gone when it is down. A short path: sockets below it have at most 107 bytes."""
KUBECONFIG = STATE / "admin.kubeconfig"
KEPT = cache_folder().parent / "cluster"
"""What outlives a cluster so that the next one is up sooner: parts, images, what the registry holds."""

BRIDGE = "stageline0"
HOST = "10.231.0.1"
"""This machine on the bridge. API server, DNS server and registry listen here and are reached from here only."""
PODS = "10.244.0.0/16"
DNS_SERVICE = "10.96.0.10"
DNS_DOMAIN = "cluster.local"
REGISTRY_PORT = 5000
REGISTRY = f"{HOST}:{REGISTRY_PORT}"
PAUSE_IMAGE = "stageline.test/pause:1"


@dataclass(frozen=True)
class Node:
    """A worker: a network namespace with a containerd, a kubelet and a kube-proxy of its own."""

    number: int

    @property
    def name(self) -> str:
        return f"node-{self.number}"

    @property
    def address(self) -> str:
        return f"10.231.0.{10 + self.number}"

    @property
    def pods(self) -> str:
        """Addresses of its pods."""
        return f"10.244.{self.number}.0/24"

    @property
    def pod_network(self) -> str:
        """Name of the network that its pods are joined to."""
        return f"stageline-{self.name}"

    @property
    def link(self) -> str:
        """This machine's end of the cable to the node."""
        return f"stageline-{self.number}"

    @property
    def folder(self) -> Path:
        return STATE / self.name

    @property
    def namespace(self) -> Path:
        return self.folder / "network"

    @property
    def socket(self) -> Path:
        """Where its containerd listens."""
        return self.folder / "containerd.sock"

    @property
    def images(self) -> Path:
        """Its containerd's store: outlives the cluster, since an engine's image takes minutes to unpack."""
        return KEPT / "nodes" / self.name

    @property
    def cgroup(self) -> str:
        return f"stageline-{self.name}"

    def inside(self, *command: str) -> list[str]:
        """``command`` in the node's network. Not by ``ip netns exec``, which would hide the cgroup mounts."""
        return ["nsenter", f"--net={self.namespace}", *command]


NODES = (Node(1), Node(2))
