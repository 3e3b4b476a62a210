"""Objects as an API server keeps them for the simulation: server-side apply by one manager, fields of others beside."""

from __future__ import annotations

import copy
from typing import Any

from stageline_operator.decide.observed import Child

Body = dict[str, Any]
Path = tuple[str, ...]


def paths_of(body: Body) -> frozenset[Path]:
    """Paths that an apply of ``body`` owns, in managedFields' notation; lists are atomic but for owner references."""
    found: set[Path] = set()
    for key, value in body.items():
        if key in ("apiVersion", "kind"):
            continue
        if key == "metadata":
            found |= {("metadata", *path) for path in _metadata_paths(value)}
        else:
            found |= {(key, *path) for path in _paths(value)}
    return frozenset(found)


def applied(before: Child | None, desired: Body, uid: str, version: str, created: str) -> Child:
    """The object after an apply: what the manager owned and no longer sends is gone, foreign fields stay."""
    body = copy.deepcopy(before.body) if before is not None else {"metadata": {"creationTimestamp": created}}
    ours = paths_of(desired)
    for path in before.ours - ours if before is not None else ():
        _remove(body, path)
    _merge(body, copy.deepcopy(desired))
    return Child(
        api_version=desired["apiVersion"],
        kind=desired["kind"],
        name=desired["metadata"]["name"],
        uid=before.uid if before is not None else uid,
        resource_version=version,
        owner_uid=desired["metadata"]["ownerReferences"][0]["uid"],
        deleting=False,
        body=body,
        ours=ours,
    )


def _metadata_paths(metadata: Body) -> set[Path]:
    found = set()
    for key, value in metadata.items():
        if key in ("labels", "annotations"):
            found |= {(key, *path) for path in _paths(value)}
        elif key == "ownerReferences":
            found |= {(key, f'k:{{"uid":"{each["uid"]}"}}') for each in value}
    return found


def _paths(value: Any) -> set[Path]:
    if isinstance(value, dict) and value:
        return {(key, *path) for key, below in value.items() for path in _paths(below)}
    return {()}


def _merge(into: Body, desired: Body) -> None:
    for key, value in desired.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value


def _remove(body: Body, path: Path) -> None:
    for step in path[:-1]:
        body = body.get(step, {})
    body.pop(path[-1], None)
