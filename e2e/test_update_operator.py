"""A user upgrades the operator while it serves resources."""

from __future__ import annotations

from uuid import uuid4

from support.kube.helm import Helm
from support.kube.waiting import wait_until
from user import release, resources, tiny
from user.kubectl import Kubectl


def test_an_upgrade_of_the_operator_touches_no_pod_of_a_resource(
    kubectl: Kubectl, helm: Helm, stageline: None, namespace: str
) -> None:
    tiny.apply(kubectl, namespace, "tiny")
    resources.wait_settled(kubectl, namespace, "tiny")
    pods = resources.restarts(kubectl, namespace, "tiny")
    old = _operators(kubectl)

    release.install(helm, f"podAnnotations.upgrade=u{uuid4().hex}")
    wait_until(lambda: not old & _operators(kubectl), "the old operator to go", interval=0.5)
    # The new one works: what is new is taken up. What was there is as it was.
    kubectl("patch", "infdep/tiny", "-n", namespace, "--type=merge", "-p", '{"spec":{"network":{"port":8001}}}')
    resources.wait_settled(kubectl, namespace, "tiny")
    ports = "jsonpath={.spec.ports[*].port}"
    assert kubectl("get", "service/tiny", "-n", namespace, "-o", ports) == "8001"
    assert resources.restarts(kubectl, namespace, "tiny") == pods


def _operators(kubectl: Kubectl) -> set[str]:
    return {pod["metadata"]["uid"] for pod in release.pods(kubectl)}
