"""The calls that the operator makes to the API server, as a seam: what needs a cluster takes a ``Kube``."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Protocol

from stageline_operator.kube.kinds import Kind

Body = dict[str, Any]
REQUEST_SECONDS = 20.0
"""Longest that a call may take, the reading of its answer included."""


@dataclass(frozen=True, slots=True)
class Seen:
    """An object as a list of metadata shows it."""

    uid: str
    resource_version: str
    name: str
    namespace: str


class Kube(Protocol):
    """All calls raise api.errors.ApiError or one of its kinds; writes raise LeaseLostError when this process may not
    write any more. Bodies are JSON-ready; what is returned is what the server answered.
    """

    async def get(self, kind: Kind, namespace: str, name: str) -> Body:
        """Read one object. GoneError: it is not there."""
        ...

    def list_seen(self, kind: Kind, namespace: str | None, selector: str = "") -> AsyncIterator[list[Seen]]:
        """Read metadata of all objects (``namespace`` None: of all namespaces), in chunks, as of one moment."""
        ...

    async def create(self, kind: Kind, body: Body) -> Body:
        """POST. ConflictError: an object of that name is there."""
        ...

    async def apply(self, kind: Kind, body: Body) -> Body:
        """Server-side apply as FIELD_MANAGER, with force."""
        ...

    async def apply_status(self, kind: Kind, body: Body) -> Body:
        """Server-side apply of the status. A resourceVersion in ``body`` is a precondition (ConflictError)."""
        ...

    async def patch(self, kind: Kind, namespace: str, name: str, changes: Body) -> Body:
        """Merge patch."""
        ...

    async def replace(self, kind: Kind, body: Body) -> Body:
        """PUT. ConflictError: the object's resourceVersion is another than ``body``'s."""
        ...

    async def delete(
        self, kind: Kind, namespace: str, name: str, *, uid: str, resource_version: str = "", grace: int | None = None
    ) -> Body:
        """DELETE with preconditions. ConflictError: another uid or resourceVersion; GoneError: not there."""
        ...
