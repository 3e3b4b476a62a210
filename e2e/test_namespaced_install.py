"""A user installs the operator for one namespace."""

from __future__ import annotations

import json

from support.kube.helm import Helm
from user import clients, release, resources, tiny
from user.kubectl import Kubectl

ACCOUNT = f"system:serviceaccount:{release.SYSTEM}:{release.RELEASE}"
RIGHTS = (
    ("list", "stageline.dev/inferencedeployments"),
    ("create", "pods"),
    ("delete", "pods"),
    ("create", "secrets"),
    ("patch", "services"),
)


def test_an_operator_of_one_namespace_serves_it_and_has_no_rights_elsewhere(
    kubectl: Kubectl, helm: Helm, namespace: str, other_namespace: str
) -> None:
    release.install(helm, f"watchNamespaces={{{namespace}}}")
    tiny.apply(kubectl, other_namespace, "tiny")
    tiny.apply(kubectl, namespace, "tiny")
    resources.wait_settled(kubectl, namespace, "tiny")
    with kubectl.port_forward(namespace, "service/tiny", 8000) as address, clients.client(address) as client:
        assert sum(1 for _ in clients.stream(client, "tiny", tokens=20)) > 0

    assert "status" not in resources.get(kubectl, other_namespace, "tiny")
    assert resources.pods(kubectl, other_namespace, "tiny") == []
    for verb, kind in RIGHTS:
        assert _may(kubectl, verb, kind, namespace)
        for elsewhere in (other_namespace, release.SYSTEM, ""):
            assert not _may(kubectl, verb, kind, elsewhere), (verb, kind, elsewhere)


def _may(kubectl: Kubectl, verb: str, kind: str, namespace: str) -> bool:
    """Whether the operator has a right in a namespace; in all of them, when that is empty."""
    group, _, resource = kind.rpartition("/")
    asked = {"verb": verb, "group": group, "resource": resource, "namespace": namespace}
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {"user": ACCOUNT, "resourceAttributes": asked},
    }
    answer = json.loads(kubectl("create", "-f", "-", "-o", "json", text=json.dumps(review)))
    return bool(answer["status"]["allowed"])
