"""An image on its way to the nodes: from the store where it was built to the registry, and from there to each node.

A tag that nodes know already is asked for anew, by a pod that pulls always: manifests stay as users have them, and what
runs is what was built last.
"""

from __future__ import annotations

import json

from cluster import images
from cluster.commands import run
from cluster.layout import KUBECONFIG, NODES, Node
from support.kube.parts import obtain_clients
from support.kube.progress import say

PULL_SECONDS = 900
"""The engine's image has gigabytes, and two nodes unpack it at the same time."""
_NAMESPACE = "kube-system"


def deliver(name: str) -> None:
    """Pushes an image to the cluster's registry and has each node pull it; returns when all have it."""
    images.push(name)
    say(f"pulling {name} on {len(NODES)} nodes")
    selector = f"pull={name.rpartition('/')[2].partition(':')[0]}"
    _kubectl("delete", "pods", "-n", _NAMESPACE, "-l", selector, "--ignore-not-found", "--wait")
    pods = {"apiVersion": "v1", "kind": "List", "items": [_pod(name, node, selector) for node in NODES]}
    _kubectl("create", "-n", _NAMESPACE, "-f", "-", text=json.dumps(pods))
    done = "jsonpath={.status.phase}=Succeeded"
    _kubectl("wait", "pods", "-n", _NAMESPACE, "-l", selector, f"--for={done}", f"--timeout={PULL_SECONDS}s")
    _kubectl("delete", "pods", "-n", _NAMESPACE, "-l", selector, "--wait=false")


def _pod(name: str, node: Node, selector: str) -> dict[str, object]:
    key, _, value = selector.partition("=")
    container = {"name": "pull", "image": name, "imagePullPolicy": "Always", "command": ["python3", "-c", ""]}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"generateName": f"pull-{value}-", "labels": {key: value}},
        "spec": {"nodeName": node.name, "restartPolicy": "Never", "containers": [container]},
    }


def _kubectl(*arguments: str, text: str | None = None) -> None:
    run(str(obtain_clients().kubectl), f"--kubeconfig={KUBECONFIG}", *arguments, text=text)
