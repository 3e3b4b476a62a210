"""Store, discovery and heads' answers → Observed, for one resource."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from stageline_operator.decide.observed import Child, HeadAnswer, Observed, PodSummary, Stranger
from stageline_operator.kube.kinds import REVISION
from stageline_operator.observe.children import Packed, unpack
from stageline_operator.observe.store import Store
from stageline_operator.plan import names
from stageline_operator.plan.cluster import Cluster
from stageline_operator.plan.spec import Owner

STRANGER_SECONDS = 60.0
"""A taken name is looked at again after so long: whoever has it may have left."""
_NO_CONFIG = "CreateContainerConfigError"


@dataclass(slots=True)
class Observer:
    """Everything that was observed, of all resources.

    Attributes:
        answers: by the uid of the head pod that gave them.
        secrets: uids of owners whose Secret this process made or met.
    """

    store: Store = field(default_factory=Store)
    cluster: Cluster = field(default_factory=Cluster)
    answers: dict[str, HeadAnswer] = field(default_factory=dict)
    secrets: set[str] = field(default_factory=set)
    _strangers: dict[str, dict[Stranger, float]] = field(default_factory=dict)

    def observed(self, owner: Owner) -> Observed:
        """What is there for ``owner``."""
        pods: list[PodSummary] = []
        children: list[Child] = []
        strangers = self._strangers_of(owner.uid)
        for entry in self.store.of_owner(owner.uid):
            if isinstance(entry.content, PodSummary):
                pods.append(entry.content)
            elif isinstance(entry.content, Packed):
                children.append(unpack(entry.content))
        return Observed(
            cluster=self.cluster,
            pods=tuple(sorted(pods, key=lambda pod: pod.name)),
            children=tuple(sorted(children, key=lambda child: (child.kind, child.name))),
            strangers=strangers,
            heads={
                pod.replica: self.answers[pod.uid]
                for pod in sorted(pods, key=lambda pod: pod.incarnation)
                if pod.uid in self.answers
            },
            secret_exists=self._secret_exists(owner, pods, children),
        )

    def met_stranger(self, owner: Owner, stranger: Stranger) -> None:
        """A name that ``owner`` needs belongs to someone else."""
        self._strangers.setdefault(owner.uid, {})[stranger] = time.monotonic() + STRANGER_SECONDS

    def forget(self, owner_uid: str) -> None:
        """The resource is gone."""
        self._strangers.pop(owner_uid, None)
        self.secrets.discard(owner_uid)

    def _strangers_of(self, owner_uid: str) -> tuple[Stranger, ...]:
        now = time.monotonic()
        kept = {each: until for each, until in self._strangers.get(owner_uid, {}).items() if until > now}
        if kept:
            self._strangers[owner_uid] = kept
        else:
            self._strangers.pop(owner_uid, None)
        return tuple(sorted(kept, key=lambda each: (each.kind, each.name)))

    def _secret_exists(self, owner: Owner, pods: list[PodSummary], children: list[Child]) -> bool:
        """It is made before revisions and pods, so that one of them proves it; it cannot be read."""
        secret = names.group_secret(owner)
        for pod in pods:
            for container in pod.containers:
                if container.waiting == _NO_CONFIG and secret in container.waiting_message:
                    self.secrets.discard(owner.uid)
                    return False
        return owner.uid in self.secrets or bool(pods) or any(child.kind == REVISION.kind for child in children)
