"""Decisions in words."""

from __future__ import annotations

from stageline_operator.decide.actions import (
    Apply,
    Create,
    CreateGroupSecret,
    Decision,
    Delete,
    ForceDelete,
)


def acts(decision: Decision) -> list[str]:
    """What a decision does to objects: a verb and a name each; status and Events apart."""
    verbs = {Create: "create", Apply: "apply", Delete: "delete", ForceDelete: "force-delete"}
    found = []
    for action in decision.actions:
        if isinstance(action, Create | Apply):
            found.append(f"{verbs[type(action)]} {action.body['kind']} {action.body['metadata']['name']}")
        elif isinstance(action, Delete | ForceDelete):
            found.append(f"{verbs[type(action)]} {action.ref.kind} {action.ref.name}")
        elif isinstance(action, CreateGroupSecret):
            found.append("create the group Secret")
    return found
