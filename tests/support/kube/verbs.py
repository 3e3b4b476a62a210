"""Which rights were used, by the audit log, and which a Role gives: sets of (group, resource, verb). Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

CREATED = 201


class Right(NamedTuple):
    """One verb on one resource; a subresource stands behind a slash."""

    group: str
    resource: str
    verb: str


def used_rights(events: Iterable[dict[str, Any]]) -> set[Right]:
    """What the requests of ``events`` needed, also those that were refused."""
    rights: set[Right] = set()
    for event in events:
        about = event.get("objectRef")
        if about is None or "resource" not in about:
            continue
        resource = "/".join(part for part in (about["resource"], about.get("subresource")) if part)
        group = about.get("apiGroup", "")
        rights.add(Right(group, resource, event["verb"]))
        if event["verb"] == "patch" and event.get("responseStatus", {}).get("code") == CREATED:
            # An apply of what is not there needs the right to create it, too.
            rights.add(Right(group, resource, "create"))
    return rights


def given_rights(rules: Iterable[dict[str, Any]]) -> set[Right]:
    """What the rules of a Role allow."""
    return {
        Right(group, resource, verb)
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
