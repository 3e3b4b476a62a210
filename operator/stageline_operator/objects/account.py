"""The ServiceAccount of all pods: an identity without a token, since no pod talks to the API server."""

from __future__ import annotations

from stageline_operator.objects.metadata import Body, metadata
from stageline_operator.plan import names
from stageline_operator.plan.plan import Plan


def service_account(plan: Plan) -> Body:
    """The ServiceAccount."""
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": metadata(plan.owner, names.service_account(plan.owner)),
        "automountServiceAccountToken": False,
    }
