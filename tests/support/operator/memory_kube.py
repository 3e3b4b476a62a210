"""An API server in memory that can be told to refuse objects; nobody runs the pods, and there is no watch."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

from stageline_operator.api.errors import ApiError, ConflictError, GoneError
from stageline_operator.kube.client import Body, Kube
from stageline_operator.kube.kinds import EVENT, RESOURCE, Kind, kind_of


def _accept(kind: Kind, body: Body) -> ApiError | None:
    return None


@dataclass
class MemoryKube:
    """One namespace's objects.

    Attributes:
        refuse: the error for a write of that object; None: it is written.
        tried: kind and name of each object that somebody tried to create or to apply.
    """

    refuse: Callable[[Kind, Body], ApiError | None] = _accept
    objects: dict[tuple[Kind, str], Body] = field(default_factory=dict)
    events: list[Body] = field(default_factory=list)
    tried: list[tuple[str, str]] = field(default_factory=list)
    _version: int = 0

    def as_kube(self) -> Kube:
        """It has those of Kube's calls that a look at a resource makes."""
        return cast(Kube, self)

    def put(self, body: Body) -> Body:
        """An object as it is from now on."""
        kind, name = kind_of(body["apiVersion"], body["kind"]), body["metadata"]["name"]
        self._version += 1
        before = self.objects.get((kind, name), {}).get("metadata", {})
        kept = {
            "uid": before.get("uid") or body["metadata"].get("uid") or f"uid-{self._version}",
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "resourceVersion": str(self._version),
        }
        self.objects[kind, name] = copy.deepcopy(body) | {"metadata": copy.deepcopy(body["metadata"]) | kept}
        return copy.deepcopy(self.objects[kind, name])

    def status(self) -> dict[str, Any]:
        """Of the only resource."""
        (body,) = (body for (kind, _), body in self.objects.items() if kind == RESOURCE)
        status: dict[str, Any] = body.get("status") or {}
        return status

    async def get(self, kind: Kind, namespace: str, name: str) -> Body:
        if (kind, name) not in self.objects:
            raise GoneError(f"get {kind.kind} {namespace}/{name}: not found", 404)
        return copy.deepcopy(self.objects[kind, name])

    async def create(self, kind: Kind, body: Body) -> Body:
        if kind == EVENT:
            self.events.append(body)
            return body
        if (kind, body["metadata"]["name"]) in self.objects:
            raise ConflictError(f"{kind.kind} {body['metadata']['name']} exists", 409)
        return await self.apply(kind, body)

    async def apply(self, kind: Kind, body: Body) -> Body:
        self.tried.append((kind.kind, body["metadata"]["name"]))
        error = self.refuse(kind, body)
        if error is not None:
            raise error
        return self.put(body)

    async def apply_status(self, kind: Kind, body: Body) -> Body:
        name = body["metadata"]["name"]
        return self.put(self.objects[kind, name] | {"status": body["status"]})

    async def delete(
        self, kind: Kind, namespace: str, name: str, *, uid: str, resource_version: str = "", grace: int | None = None
    ) -> Body:
        """Everything goes at once."""
        meta = (await self.get(kind, namespace, name))["metadata"]
        if meta["uid"] != uid or resource_version not in ("", meta["resourceVersion"]):
            raise ConflictError(f"{kind.kind} {name} is another", 409)
        del self.objects[kind, name]
        return {"kind": "Status"}
