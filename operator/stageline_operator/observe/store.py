"""What the watch and our own writes told, as summaries, by the uid of the owning resource.

A newer state is never replaced by an older one: events may come twice, late or out of order, and the answers to our
own writes arrive before the watch tells of them. So each object keeps its resourceVersion, and so does a deleted one
for a while.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from stageline_operator.decide.observed import PodSummary, Stray
from stageline_operator.kube.kinds import POD, RESOURCE, Kind
from stageline_operator.observe.children import Packed, pack
from stageline_operator.observe.pods import controller, summarize

Key = tuple[str, str]
"""Namespace and name of a resource: what is reconciled."""
MAX_GRAVES = 20_000
"""Deleted uids that are remembered; a late event is late by seconds, not by so many deletions."""


@dataclass(frozen=True, slots=True)
class Resource:
    """An InferenceDeployment as far as it is kept: its body is read when it is reconciled."""

    key: Key
    uid: str


@dataclass(slots=True)
class Entry:
    """An object that is there.

    Attributes:
        version: resourceVersion as a number; the API promises that later states of an object have greater ones.
        owner_uid: "" for a resource itself, and for what nobody owns.
        content: what is kept of it.
    """

    kind: Kind
    namespace: str
    version: int
    owner_uid: str
    content: Resource | PodSummary | Stray | Packed


@dataclass(slots=True)
class Store:
    """All objects that were seen.

    Attributes:
        entries: by uid.
        children: uids by the uid of their owner.
        resources: uid by key.
    """

    entries: dict[str, Entry] = field(default_factory=dict)
    children: dict[str, set[str]] = field(default_factory=dict)
    resources: dict[Key, str] = field(default_factory=dict)
    _graves: dict[str, int] = field(default_factory=dict)

    def put(self, kind: Kind, body: Mapping[str, Any]) -> Key | None:
        """Take over an object's state, unless a later one is known.

        Returns:
            The key of the resource that has to be looked at again; None: nothing is new, or nobody's.
        """
        meta = body["metadata"]
        uid, version = meta["uid"], int(meta["resourceVersion"])
        known = self.entries.get(uid)
        if version < self._graves.get(uid, 0) or (known is not None and known.version >= version):
            return None
        self._graves.pop(uid, None)  # not deleted: it had lost the label by which we see it
        if kind == RESOURCE:
            key = (meta["namespace"], meta["name"])
            self.resources[key] = uid
            self.entries[uid] = Entry(kind, key[0], version, "", Resource(key, uid))
            return key
        owner_uid = controller(meta).get("uid", "")
        content = summarize(body) if kind == POD else pack(body)
        self.entries[uid] = Entry(kind, meta["namespace"], version, owner_uid, content)
        self.children.setdefault(owner_uid, set()).add(uid)
        return self.key_of(owner_uid)

    def drop(self, uid: str, version: int | None = None) -> Key | None:
        """Forget an object that was deleted; states older than ``version`` (None: than the last known) do not bring it
        back.

        Returns:
            As ``put``.
        """
        known = self.entries.get(uid)
        if known is not None and version is not None and version < known.version:
            return None
        self._graves[uid] = version if version is not None else known.version if known is not None else 0
        if len(self._graves) > MAX_GRAVES:
            del self._graves[next(iter(self._graves))]
        entry = self.entries.pop(uid, None)
        if entry is None:
            return None
        if isinstance(entry.content, Resource):
            key = entry.content.key
            if self.resources.get(key) == uid:
                del self.resources[key]
            return key
        siblings = self.children[entry.owner_uid]
        siblings.discard(uid)
        if not siblings:
            del self.children[entry.owner_uid]
        return self.key_of(entry.owner_uid)

    def drop_unlisted(self, kind: Kind, namespace: str | None, listed: set[str], version: int) -> list[Key]:
        """Forget what a list as of ``version`` would have if it were still there. What we made since is newer.

        Returns:
            The keys of the resources that have to be looked at again.
        """
        gone = [uid for uid in self.uids(kind, namespace) if uid not in listed and self.entries[uid].version <= version]
        return [key for uid in gone if (key := self.drop(uid, version)) is not None]

    def key_of(self, owner_uid: str) -> Key | None:
        """Key of the resource with that uid."""
        owner = self.entries.get(owner_uid)
        return owner.content.key if owner is not None and isinstance(owner.content, Resource) else None

    def has_seen(self, uid: str, version: int) -> bool:
        """That state of an object, or a later one, its deletion included, is known."""
        entry = self.entries.get(uid)
        return (entry is not None and entry.version >= version) or self._graves.get(uid, -1) >= version

    def of_owner(self, owner_uid: str) -> Iterator[Entry]:
        """All children of a resource."""
        for uid in self.children.get(owner_uid, ()):
            yield self.entries[uid]

    def uids(self, kind: Kind, namespace: str | None) -> set[str]:
        """Uids of all objects of a kind (``namespace`` None: in all namespaces)."""
        return {
            uid for uid, entry in self.entries.items() if entry.kind == kind and namespace in (None, entry.namespace)
        }
