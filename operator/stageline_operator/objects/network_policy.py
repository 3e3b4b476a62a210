"""The NetworkPolicy of a replica: what may come in. Going out stays open, for the model's source and DNS."""

from __future__ import annotations

from stageline_operator.api import constants as c
from stageline_operator.objects.metadata import Body, metadata, replica_labels, select_replica
from stageline_operator.plan import names
from stageline_operator.plan.plan import RevisionPlan
from stageline_operator.plan.spec import Owner


def network_policy(plan: RevisionPlan, owner: Owner, replica: int, gang: str) -> Body:
    """Pods of the replica reach each other on every port, since gloo and NCCL choose theirs; everybody reaches the API
    port, which only heads listen on; the operator and Prometheus reach the status port. Probes come from the node and
    are always let in."""
    everything_of_us = {"from": [{"podSelector": {"matchLabels": select_replica(owner, replica)}}]}
    clients = {"ports": [{"protocol": "TCP", "port": c.PORT_API}]}
    readers = {
        "from": [
            {"namespaceSelector": {}, "podSelector": {"matchLabels": dict(labels)}}
            for labels in (c.OPERATOR_POD_LABELS, c.PROMETHEUS_POD_LABELS)
        ],
        "ports": [{"protocol": "TCP", "port": c.PORT_STATUS}],
    }
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata(owner, names.network_policy(owner, replica), replica_labels(replica, plan.revision, gang)),
        "spec": {
            "podSelector": {"matchLabels": select_replica(owner, replica)},
            "policyTypes": ["Ingress"],
            "ingress": [everything_of_us, clients, readers],
        },
    }
