"""The control plane: the same processes as in the operator's tests, but for nodes, and with every controller."""

from __future__ import annotations

import httpx

from cluster import daemons
from cluster.layout import HOST, STATE
from support.kube import flags
from support.kube.access import Access
from support.kube.certificates import Authority
from support.kube.control_plane import lay_out
from support.kube.flags import Settings
from support.kube.parts import Parts
from support.kube.waiting import wait_until

NODE_GRACE_SECONDS = 16
"""A node without a heartbeat for so long is lost: less than a real cluster's 40, more than a busy machine takes."""
START_SECONDS = 60.0
COMPONENTS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")


def start(parts: Parts) -> Access:
    """Starts the components; returns, when the API server answers, the ways to reach it."""
    authority = Authority(STATE / "certificates")
    layout = lay_out(STATE, authority, HOST)
    access = Access(f"https://{HOST}:{layout.api_port}", STATE, authority, parts.kubectl)
    for component in ("controller-manager", "scheduler"):
        access.certificate_kubeconfig(component, access.certificate(f"system:kube-{component}"))
    to_kubelets = access.certificate("kube-apiserver-kubelet-client", ["system:masters"])
    settings = Settings(
        address=HOST,
        node_grace_seconds=NODE_GRACE_SECONDS,
        controllers=("*",),
        api_flags=(
            f"--kubelet-client-certificate={to_kubelets.certificate}",
            f"--kubelet-client-key={to_kubelets.key}",
            "--kubelet-preferred-address-types=InternalIP",
        ),
    )
    daemons.start("etcd", flags.etcd(parts, layout))
    daemons.start("kube-apiserver", flags.api_server(parts, layout, settings))
    wait_until(lambda: _is_ready(access), "the API server", START_SECONDS)
    daemons.start("kube-controller-manager", flags.controller_manager(parts, layout, settings))
    daemons.start("kube-scheduler", flags.scheduler(parts, layout, settings))
    return access


def _is_ready(access: Access) -> bool:
    daemons.check("etcd")
    daemons.check("kube-apiserver")
    try:
        return access.api.is_ready()
    except httpx.TransportError:
        return False
