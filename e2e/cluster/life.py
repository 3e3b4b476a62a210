"""The cluster comes and goes: what is started in which order, and what is removed."""

from __future__ import annotations

import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor

from cluster import containers, control_plane, daemons, dns, kernel, kubelet, network, registry, traces
from cluster.layout import NODES, STATE, Node
from cluster.parts import obtain_all
from support.kube.access import Access
from support.kube.progress import say
from support.kube.waiting import wait_until

NODES_SECONDS = 90.0
_COMPLETE = STATE / "complete"
"""Present when everything was started."""


class ClusterError(RuntimeError):
    """The cluster cannot be had on this machine; the text says why."""


def up() -> None:
    """Brings the cluster up unless it is; what is left of an earlier one is removed first.

    Raises:
        ClusterError: not root.
    """
    if os.geteuid() != 0:
        raise ClusterError(
            "network namespaces, mounts and control groups need root: run it as root, or give the "
            "kubeconfig of another cluster in E2E_KUBECONFIG"
        )
    if is_up():
        say("the cluster is up already")
        return
    down()
    parts = obtain_all()
    begin = time.monotonic()
    STATE.mkdir(parents=True)
    kernel.save_settings()
    network.raise_bridge()
    with ThreadPoolExecutor() as pool:
        nodes = [pool.submit(_prepare, node) for node in NODES]
        registry.start()
        access = control_plane.start(parts)
        dns.start(access)
        for node, prepared in zip(NODES, nodes, strict=True):
            prepared.result()
            kubelet.start(node, access, parts)
    wait_until(lambda: _all_ready(access), "the nodes to be ready", NODES_SECONDS, interval=0.2)
    access.close_clients()
    _COMPLETE.touch()
    say(f"up after {time.monotonic() - begin:.0f} s")


def down() -> None:
    """Ends every process and removes everything but images and parts; harmless when nothing is there."""
    if not STATE.exists():
        return
    _COMPLETE.unlink(missing_ok=True)
    for name in daemons.names():
        # Kubelets first: they would start again what ends. A containerd is needed until its containers are gone.
        if name not in {containers.daemon(node) for node in NODES}:
            daemons.stop(name)
    for node in NODES:
        containers.stop(node)
    kernel.unmount_all()
    for node in NODES:
        kernel.remove_cgroups(node)
    network.remove()
    traces.remove()
    kernel.restore_settings()
    shutil.rmtree(STATE)


def is_up() -> bool:
    """Whether everything was started and still runs."""
    return _COMPLETE.exists() and all(daemons.is_running(name) for name in daemons.names())


def _prepare(node: Node) -> None:
    network.connect(node)
    kernel.make_cgroups(node)
    containers.start(node)


def _all_ready(access: Access) -> bool:
    for name in daemons.names():
        daemons.check(name)
    ready = [
        node["metadata"]["name"]
        for node in access.api.list("nodes")
        if any(each["type"] == "Ready" and each["status"] == "True" for each in node["status"].get("conditions", ()))
    ]
    # Pods are refused until the namespace has its service account.
    account = access.api.find("serviceaccounts", "default", "default")
    return len(ready) == len(NODES) and account is not None
