"""What every action needs: the client, what is known, and for whom it acts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stageline_operator.api.errors import ConflictError, GoneError, NameTakenError
from stageline_operator.decide.observed import Stranger
from stageline_operator.kube.client import Body, Kube
from stageline_operator.kube.kinds import Kind, kind_of
from stageline_operator.observe.children import Packed
from stageline_operator.observe.observed import Observer
from stageline_operator.observe.pods import controller
from stageline_operator.plan.spec import Owner


@dataclass(frozen=True, slots=True)
class Context:
    """One reconcile's surroundings.

    Attributes:
        resource_version: of the resource as it was read; a status made from it is refused when it is stale.
    """

    kube: Kube
    observer: Observer
    owner: Owner
    resource_version: str

    def keep(self, body: Body) -> None:
        """Know at once what the server answered to our write, before the watch tells."""
        self.observer.store.put(kind_of(body["apiVersion"], body["kind"]), body)

    def knows(self, kind: Kind, name: str) -> bool:
        """An object of ours with that name is known to be there."""
        entries = self.observer.store.of_owner(self.owner.uid)
        return any(
            each.kind == kind and isinstance(each.content, Packed) and each.content.name == name for each in entries
        )

    async def look(self, kind: Kind, name: str) -> bool:
        """Read the object that has a name which we need.

        Returns:
            True: it is ours, and known from now on. False: it is not there.

        Raises:
            NameTakenError: it is not ours.
        """
        try:
            body = await self.kube.get(kind, self.owner.namespace, name)
        except GoneError:
            return False
        if controller(body["metadata"]).get("uid") == self.owner.uid:
            self.keep(body)
            return True
        raise self._taken(body["kind"], name, body["metadata"])

    def _taken(self, kind: str, name: str, metadata: Mapping[str, Any]) -> NameTakenError:
        owner = controller(metadata)
        whose = f"{owner['kind']}/{owner['name']}" if owner else ""
        self.observer.learned.met_stranger(self.owner.uid, Stranger(kind, name, whose))
        return NameTakenError(
            f"{kind} {self.owner.namespace}/{name} is there already and belongs to {whose or 'nobody'}: "
            f"delete or rename it, or give {self.owner.name} another name"
        )


def changed_meanwhile(what: str) -> ConflictError:
    """Read again, decide again."""
    return ConflictError(f"{what} changed since it was read", 409)
