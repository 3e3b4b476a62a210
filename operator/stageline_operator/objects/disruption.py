"""The PodDisruptionBudget of a replica."""

from __future__ import annotations

from stageline_operator.api import constants as c
from stageline_operator.objects.metadata import Body, metadata, replica_labels, select_replica
from stageline_operator.plan import names
from stageline_operator.plan.plan import RevisionPlan
from stageline_operator.plan.spec import Owner


def disruption_budget(plan: RevisionPlan, owner: Owner, replica: int, gang: str) -> Body:
    """One pod of a replica at a time may be evicted: its replacement joins in place, while two lost stages would lose
    more time than one after the other. A replica that is broken anyway may be evicted freely."""
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": metadata(
            owner,
            names.replica(owner, replica),
            replica_labels(replica, plan.revision, gang),
            {c.ANNOTATION_PDB_POLICY: "one pod of this pipeline replica at a time"},
        ),
        "spec": {
            "minAvailable": plan.pods_per_replica - 1,
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
            "selector": {"matchLabels": select_replica(owner, replica)},
        },
    }
