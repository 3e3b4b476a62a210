"""The ControllerRevision that keeps what a revision's pods are made from."""

from __future__ import annotations

from typing import Any, Final

from stageline_operator.api import constants as c
from stageline_operator.objects.metadata import Body, metadata
from stageline_operator.plan import names
from stageline_operator.plan.plan import RevisionPlan
from stageline_operator.plan.spec import Owner

CONTROLLER_REVISION: Final = ("apps/v1", "ControllerRevision")
FORM: Final = "1"
"""Version of the form of ``data``."""


def controller_revision(plan: RevisionPlan, owner: Owner, number: int) -> Body:
    """The revision's content; ``number`` orders revisions, later ones higher."""
    return {
        "apiVersion": CONTROLLER_REVISION[0],
        "kind": CONTROLLER_REVISION[1],
        "metadata": metadata(
            owner,
            names.controller_revision(owner, plan.revision),
            {c.LABEL_REVISION: plan.revision},
            {c.ANNOTATION_REVISION_CONTENT: FORM},
        ),
        "revision": number,
        "data": {"content": plan.content},
    }


def content_of(body: dict[str, Any]) -> tuple[str, str] | None:
    """Revision and content that a ControllerRevision holds; None for one that is not in this form."""
    described = body.get("metadata", {})
    name = described.get("labels", {}).get(c.LABEL_REVISION)
    content = (body.get("data") or {}).get("content")
    if described.get("annotations", {}).get(c.ANNOTATION_REVISION_CONTENT) != FORM:
        return None
    return (name, content) if isinstance(name, str) and isinstance(content, str) else None
