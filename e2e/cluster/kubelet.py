"""A node's kubelet and kube-proxy."""

from __future__ import annotations

import json

from cluster import daemons, debian
from cluster.layout import DNS_DOMAIN, DNS_SERVICE, HOST, PODS, Node
from support.kube.access import Access
from support.kube.parts import Parts

_NOTHING_KEPT_FREE = {"memory.available": "0%", "nodefs.available": "0%", "imagefs.available": "0%"}


def start(node: Node, access: Access, parts: Parts) -> None:
    """Starts both; the node registers itself and is Ready some seconds later."""
    user = f"system:node:{node.name}"
    kubeconfig = access.certificate_kubeconfig(node.name, access.certificate(user, ["system:nodes"]))
    config = node.folder / "kubelet.json"
    config.write_text(json.dumps(_settings(node, access), indent=1))
    kubelet = [
        str(parts.component("kubelet")),
        f"--config={config}",
        f"--kubeconfig={kubeconfig}",
        f"--root-dir={node.folder / 'kubelet'}",
        f"--cert-dir={node.folder / 'certificates'}",
        f"--hostname-override={node.name}",
        f"--node-ip={node.address}",
    ]
    daemons.start(f"{node.name}-kubelet", node.inside(*kubelet), debian.environment())
    proxy_user = access.certificate("system:kube-proxy")
    proxy = [
        str(parts.component("kube-proxy")),
        f"--kubeconfig={access.certificate_kubeconfig('kube-proxy', proxy_user)}",
        "--proxy-mode=iptables",
        f"--cluster-cidr={PODS}",
        f"--hostname-override={node.name}",
        # The connection table belongs to the whole machine: it stays as large as it is.
        "--conntrack-max-per-core=0",
        "--conntrack-min=0",
        "--conntrack-tcp-timeout-established=0",
        "--conntrack-tcp-timeout-close-wait=0",
    ]
    daemons.start(f"{node.name}-kube-proxy", node.inside(*proxy), debian.environment())


def _settings(node: Node, access: Access) -> dict[str, object]:
    resolver = node.folder / "resolv.conf"
    resolver.write_text(f"nameserver {HOST}\n")
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(access.authority)},
        },
        "authorization": {"mode": "Webhook"},
        "containerRuntimeEndpoint": f"unix://{node.socket}",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{node.cgroup}",
        "failCgroupV1": False,
        "failSwapOn": False,
        "clusterDNS": [DNS_SERVICE],
        "clusterDomain": DNS_DOMAIN,
        "resolvConf": str(resolver),
        "podLogsDir": str(node.folder / "logs"),
        "volumePluginDir": str(node.folder / "volume-plugins"),
        # The disk is shared with everything else on the machine: how full it is says nothing about the cluster.
        "evictionHard": _NOTHING_KEPT_FREE,
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "nodeStatusUpdateFrequency": "4s",
        "nodeLeaseDurationSeconds": 8,
        "registryPullQPS": 0,
        "syncFrequency": "10s",
    }
