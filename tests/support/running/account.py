"""Who the operator is in tests: a service account with exactly the rules of the chart's Role."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from support.kube.control_plane import ControlPlane

RULES = Path(__file__).parents[3] / "charts/stageline/templates/_rules.tpl"
ACCOUNT = "stageline-operator"
LEASE_RULES = [
    {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["get", "create", "update"]},
]


def chart_rules() -> list[dict[str, Any]]:
    """The rules of the chart's Role."""
    text = RULES.read_text()
    body = text.split('define "stageline.rules" -}}')[1].split("{{- end -}}")[0]
    rules: list[dict[str, Any]] = yaml.safe_load(body)
    return rules


def make_account(plane: ControlPlane, namespace: str) -> str:
    """Create the account in ``namespace``, where alone it has rights; returns its token."""
    meta = {"name": ACCOUNT, "namespace": namespace}
    plane.api.create({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta})
    give_role(plane, namespace, namespace, [*chart_rules(), *LEASE_RULES])
    return plane.service_account_token(namespace, ACCOUNT)


def give_role(plane: ControlPlane, namespace: str, home: str, rules: list[dict[str, Any]]) -> None:
    """Give the account of ``home`` these rights, and no other, in ``namespace``."""
    group = "rbac.authorization.k8s.io"
    meta = {"name": ACCOUNT, "namespace": namespace}
    plane.api.apply({"apiVersion": f"{group}/v1", "kind": "Role", "metadata": meta, "rules": rules})
    plane.api.apply(
        {
            "apiVersion": f"{group}/v1",
            "kind": "RoleBinding",
            "metadata": meta,
            "roleRef": {"apiGroup": group, "kind": "Role", "name": ACCOUNT},
            "subjects": [{"kind": "ServiceAccount", "name": ACCOUNT, "namespace": home}],
        }
    )


def take_role(plane: ControlPlane, namespace: str) -> None:
    """Take all rights in ``namespace`` away."""
    plane.api.delete("roles", ACCOUNT, namespace)


def make_cluster_wide(plane: ControlPlane, namespace: str) -> None:
    """Give the account in ``namespace`` the same rights in all namespaces."""
    group, name = "rbac.authorization.k8s.io", f"{namespace}-{ACCOUNT}"
    meta = {"name": name}
    plane.api.create({"apiVersion": f"{group}/v1", "kind": "ClusterRole", "metadata": meta, "rules": chart_rules()})
    plane.api.create(
        {
            "apiVersion": f"{group}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": meta,
            "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": ACCOUNT, "namespace": namespace}],
        }
    )


def user_of(namespace: str) -> str:
    """The account's name in the audit log."""
    return f"system:serviceaccount:{namespace}:{ACCOUNT}"
