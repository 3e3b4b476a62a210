"""Actions: what ``apply`` is to do, in order. Values only; each carries what makes it safe to do late or twice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from stageline_operator.api.conditions import Reason
from stageline_operator.api.status import InferenceDeploymentStatus


@dataclass(frozen=True, slots=True)
class Ref:
    """An object of the resource's namespace."""

    api_version: str
    kind: str
    name: str


@dataclass(frozen=True, slots=True)
class Create:
    """POST ``body``. 409 means that it is there already: read again, decide again."""

    body: dict[str, Any]
    why: str


@dataclass(frozen=True, slots=True)
class CreateGroupSecret:
    """POST ``objects.secret.group_secret`` with random keys of ``apply``'s own; 409 means that it is there: go on."""

    why: str


@dataclass(frozen=True, slots=True)
class Apply:
    """Server-side apply of ``body`` as FIELD_MANAGER, with force: a field of ours comes back, foreign ones stay."""

    body: dict[str, Any]
    why: str
    is_new: bool = False
    """There is no such object yet."""


@dataclass(frozen=True, slots=True)
class Delete:
    """DELETE with preconditions: re-read the object; gone, another uid or another resourceVersion: do nothing."""

    ref: Ref
    uid: str
    resource_version: str
    why: str


@dataclass(frozen=True, slots=True)
class ForceDelete:
    """DELETE with grace period 0 and the uid as precondition: a pod whose node will never say that it ended."""

    ref: Ref
    uid: str
    why: str


@dataclass(frozen=True, slots=True)
class WriteStatus:
    """Server-side apply of the whole status, in the status subresource."""

    status: InferenceDeploymentStatus


@dataclass(frozen=True, slots=True)
class EmitEvent:
    """An Event about the resource; ``apply`` limits their rate and joins equal ones."""

    type: Literal["Normal", "Warning"]
    reason: Reason
    message: str
    about: Ref | None = None
    """The child that it is also about (``related``)."""


Action = Create | CreateGroupSecret | Apply | Delete | ForceDelete | WriteStatus | EmitEvent


def ref_of(action: Action) -> Ref | None:
    """The object that an action makes, changes or deletes; None for the status, Events and the group Secret."""
    match action:
        case Create(body=body) | Apply(body=body):
            return Ref(body["apiVersion"], body["kind"], body["metadata"]["name"])
        case Delete(ref=ref) | ForceDelete(ref=ref):
            return ref
        case _:
            return None


@dataclass(frozen=True, slots=True)
class Decision:
    """All that one reconcile does.

    Attributes:
        actions: in this order. Objects before the pods that need them; the status last. A failed one ends the list,
            but the status is written all the same, with the failure in it.
        again_after: seconds after which to look again though nothing happened (back-off, deadlines); None: not needed.
        poll: the heads are asked every 2 s (something progresses) instead of every 30 s.
    """

    actions: tuple[Action, ...]
    again_after: float | None
    poll: bool
