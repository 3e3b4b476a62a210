"""Bodies of children other than pods, kept small: as JSON text until a decision needs them."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from stageline_operator.api.constants import FIELD_MANAGER
from stageline_operator.decide.observed import Child
from stageline_operator.observe.pods import controller

_SERVER_SIDE = ("managedFields", "uid", "resourceVersion", "generation", "selfLink")


@dataclass(frozen=True, slots=True)
class Packed:
    """A child as it is kept. ``content`` is the JSON of its body and of our managed fields, compressed: there are
    several for each replica, and a dict of one takes kilobytes.
    """

    api_version: str
    kind: str
    name: str
    uid: str
    resource_version: str
    owner_uid: str
    owner: str
    deleting: bool
    content: bytes


def pack(body: Mapping[str, Any]) -> Packed:
    """Keep a child's body, without status and what only the server writes."""
    meta = body["metadata"]
    kept = {key: value for key, value in body.items() if key not in ("status", "metadata")}
    kept["metadata"] = {key: value for key, value in meta.items() if key not in _SERVER_SIDE}
    owner = controller(meta)
    return Packed(
        api_version=body["apiVersion"],
        kind=body["kind"],
        name=meta["name"],
        uid=meta["uid"],
        resource_version=meta["resourceVersion"],
        owner_uid=owner.get("uid", ""),
        owner=f"{owner['kind']}/{owner['name']}" if owner else "",
        deleting=meta.get("deletionTimestamp") is not None,
        content=zlib.compress(json.dumps([kept, _our_fields(meta)]).encode(), level=1),
    )


def unpack(packed: Packed) -> Child:
    """The child as decisions compare it."""
    body, fields = json.loads(zlib.decompress(packed.content))
    return Child(
        api_version=packed.api_version,
        kind=packed.kind,
        name=packed.name,
        uid=packed.uid,
        resource_version=packed.resource_version,
        owner_uid=packed.owner_uid,
        deleting=packed.deleting,
        body=body,
        ours=frozenset(_leaves(fields, ())),
    )


def _our_fields(metadata: Mapping[str, Any]) -> dict[str, Any]:
    for entry in metadata.get("managedFields") or ():
        if entry.get("manager") == FIELD_MANAGER and entry.get("operation") == "Apply" and "subresource" not in entry:
            return dict(entry.get("fieldsV1") or {})
    return {}


def _leaves(fields: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    for key, below in fields.items():
        if key == ".":
            continue
        here = (*path, key.removeprefix("f:"))
        if set(below) - {"."}:
            yield from _leaves(below, here)
        else:
            yield here
