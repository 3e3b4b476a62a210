"""A user removes the operator, and then everything. It removes the definition: not for a cluster of somebody's."""

from __future__ import annotations

import json

from support.kube.helm import Helm
from support.kube.waiting import wait_until
from user import clients, release, resources, tiny
from user.kubectl import Kubectl

DEFINITION = "inferencedeployments.stageline.dev"


def test_pods_serve_on_without_the_operator_and_the_documented_removal_leaves_nothing(
    kubectl: Kubectl, helm: Helm, stageline: None, namespace: str
) -> None:
    tiny.apply(kubectl, namespace, "tiny")
    resources.wait_settled(kubectl, namespace, "tiny")
    pods = resources.restarts(kubectl, namespace, "tiny")

    release.uninstall(helm)
    wait_until(lambda: not release.pods(kubectl), "the operator's pods to be gone", interval=0.5)
    with kubectl.port_forward(namespace, "service/tiny", 8000) as address, clients.client(address) as client:
        assert sum(1 for _ in clients.stream(client, "tiny", tokens=20)) > 0
    assert resources.restarts(kubectl, namespace, "tiny") == pods

    kubectl("delete", "crd", DEFINITION, "--timeout=120s")
    kubectl("-n", release.SYSTEM, "delete", "lease", release.RELEASE)
    kubectl("delete", "namespace", release.SYSTEM, "--timeout=120s")
    ours = "app.kubernetes.io/managed-by=stageline-operator"
    wait_until(lambda: not _labelled(kubectl, ours, namespace), "its objects to be gone", 180, interval=1)
    assert _labelled(kubectl, "app.kubernetes.io/name=stageline-operator") == []
    assert "stageline" not in kubectl("api-resources", "-o", "name")


def _labelled(kubectl: Kubectl, label: str, namespace: str | None = None) -> list[str]:
    """Objects of any kind in the namespace, or those that are in none."""
    flags = ["--verbs=list,get", f"--namespaced={str(namespace is not None).lower()}", "-o", "name"]
    kinds = ",".join(kubectl("api-resources", *flags).split())
    found = json.loads(kubectl("get", kinds, *(["-n", namespace] if namespace else []), "-l", label, "-o", "json"))
    return [f"{each['kind']} {each['metadata']['name']}" for each in found["items"]]
