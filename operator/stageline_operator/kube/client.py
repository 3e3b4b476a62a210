"""The calls that the operator makes to the API server, as a seam: what needs a cluster takes a ``Kube``."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Protocol

from stageline_operator.kube.kinds import Kind

Body = dict[str, Any]
REQUEST_SECONDS = 20.0
"""Longest that a call may take, the reading of its answer included."""
STREAM_SECONDS = 300
"""The API server ends a watch after so long, and the next one begins where it ended."""


@dataclass(frozen=True, slots=True)
class Seen:
    """An object as a list of metadata shows it."""

    uid: str
    resource_version: str
    name: str
    namespace: str


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a list of whole objects.

    Attributes:
        version: resourceVersion of the list, the same for all its pages: what came later is what a watch tells.
    """

    bodies: list[Body]
    version: str


@dataclass(frozen=True, slots=True)
class Change:
    """What a watch tells: an object's new state, or its last one.

    Attributes:
        body: None: nothing changed, but a watch may go on from ``version``.
        version: resourceVersion from which another watch goes on.
    """

    body: Body | None
    deleted: bool
    version: str


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

    def list_whole(self, kind: Kind, namespace: str | None, selector: str = "") -> AsyncIterator[Page]:
        """Read all objects, in pages small enough to be held in memory. GoneError: begin anew."""
        ...

    def watch(self, kind: Kind, namespace: str | None, selector: str, since: str) -> AsyncIterator[Change]:
        """What happens after resourceVersion ``since``, until the server ends the stream, after STREAM_SECONDS at the
        latest. GoneError: it has forgotten what came after ``since``.
        """
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
