"""A bridge, and a network namespace for each node: the cables and switches of the cluster.

Nodes reach each other's pods over the bridge by their own routes, so this machine forwards nothing and keeps its rules
as they are.
"""

from __future__ import annotations

import json
import os

from cluster.commands import CommandError, run
from cluster.layout import BRIDGE, HOST, NODES, Node


def raise_bridge() -> None:
    run("ip", "link", "add", BRIDGE, "type", "bridge")
    run("ip", "address", "add", f"{HOST}/24", "dev", BRIDGE)
    run("ip", "link", "set", BRIDGE, "up")


def connect(node: Node) -> None:
    """Makes the node's network namespace and joins it to the bridge and to the other nodes' pods."""
    node.namespace.parent.mkdir(parents=True, exist_ok=True)
    node.namespace.touch()
    run("unshare", f"--net={node.namespace}", "true")
    # From inside, since `ip` finds namespaces by process id, and a namespace without a process has none.
    run(*node.inside("ip", "link", "add", "eth0", "type", "veth", "peer", node.link, "netns", str(os.getpid())))
    run("ip", "link", "set", node.link, "master", BRIDGE, "up")
    run("ip", "route", "add", node.pods, "via", node.address)
    _inside(node, "address", "add", f"{node.address}/24", "dev", "eth0")
    _inside(node, "link", "set", "lo", "up")
    _inside(node, "link", "set", "eth0", "up")
    _inside(node, "route", "add", "default", "via", HOST)
    for other in NODES:
        if other != node:
            _inside(node, "route", "add", other.pods, "via", other.address)
    run(*node.inside("sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"))


def remove() -> None:
    """Removes bridge and cables; namespaces go with their last process and mount."""
    for link in (*(node.link for node in NODES), BRIDGE):
        if link in _links():
            try:
                run("ip", "link", "delete", link)
            except CommandError:
                # A cable goes by itself a moment after its node's namespace: between our look and our command.
                if link in _links():
                    raise


def _links() -> set[str]:
    return {link["ifname"] for link in json.loads(run("ip", "-json", "link"))}


def _inside(node: Node, *arguments: str) -> None:
    run(*node.inside("ip", *arguments))
