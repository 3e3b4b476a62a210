"""Labels, selectors and the owner reference: made here alone, so that what is watched and what is made agree."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stageline_operator.api import constants as c
from stageline_operator.plan.spec import Owner

Body = dict[str, Any]
"""An object as the API server takes it: nothing in it that the server fills in."""


def metadata(
    owner: Owner, name: str, labels: Mapping[str, str] | None = None, annotations: Mapping[str, str] | None = None
) -> Body:
    """``metadata`` of a child; ``labels`` add to those that every child has.

    A resource that was never in a cluster has no uid (``render``), and its children no owner reference.
    """
    body: Body = {
        "name": name,
        "namespace": owner.namespace,
        "labels": {**(labels or {}), c.LABEL_MANAGED_BY: c.FIELD_MANAGER, c.LABEL_NAME: owner.name},
    }
    if annotations:
        body["annotations"] = dict(annotations)
    if owner.uid:
        body["ownerReferences"] = [
            {
                "apiVersion": c.API_VERSION,
                "kind": c.KIND,
                "name": owner.name,
                "uid": owner.uid,
                "controller": True,
                "blockOwnerDeletion": True,
            }
        ]
    return body


def replica_labels(replica: int, revision: str, gang: str) -> dict[str, str]:
    """Labels of the objects that each replica has one of. Its number is never used again while one of them exists."""
    return {c.LABEL_REPLICA: str(replica), c.LABEL_REVISION: revision, c.LABEL_GANG: gang}


def pod_labels(replica: int, stage: int | None, incarnation: int, revision: str, epoch: int) -> dict[str, str]:
    """Labels that say which pod of which replica this is; ``stage`` is None for the head."""
    labels = {
        c.LABEL_REPLICA: str(replica),
        c.LABEL_ROLE: c.ROLE_HEAD if stage is None else c.ROLE_STAGE,
        c.LABEL_INCARNATION: str(incarnation),
        c.LABEL_REVISION: revision,
        c.LABEL_EPOCH: str(epoch),
    }
    if stage is not None:
        labels[c.LABEL_STAGE] = str(stage)
    return labels


def select_resource(owner: Owner) -> dict[str, str]:
    """Selects all pods of a resource."""
    return {c.LABEL_NAME: owner.name}


def select_heads(owner: Owner) -> dict[str, str]:
    """Selects the heads of a resource."""
    return {c.LABEL_NAME: owner.name, c.LABEL_ROLE: c.ROLE_HEAD}


def select_replica(owner: Owner, replica: int) -> dict[str, str]:
    """Selects all pods of a replica."""
    return {c.LABEL_NAME: owner.name, c.LABEL_REPLICA: str(replica)}


def select_stages(owner: Owner, replica: int) -> dict[str, str]:
    """Selects the stages' pods of a replica."""
    return {**select_replica(owner, replica), c.LABEL_ROLE: c.ROLE_STAGE}
