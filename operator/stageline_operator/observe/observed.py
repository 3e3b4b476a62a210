"""Store, discovery, heads' answers and what was learned → Observed, for one resource."""

from __future__ import annotations

from dataclasses import dataclass, field

from stageline_operator.decide.observed import Child, Observed, PodSummary, Stray
from stageline_operator.observe.children import Packed, unpack
from stageline_operator.observe.heads import Heard
from stageline_operator.observe.learned import Learned
from stageline_operator.observe.store import Store
from stageline_operator.plan.cluster import Cluster
from stageline_operator.plan.spec import Owner


@dataclass(slots=True)
class Observer:
    """Everything that was observed, of all resources.

    Attributes:
        answers: by the uid of the head pod that gave them.
    """

    store: Store = field(default_factory=Store)
    cluster: Cluster = field(default_factory=Cluster)
    learned: Learned = field(default_factory=Learned)
    answers: dict[str, Heard] = field(default_factory=dict)

    def observed(self, owner: Owner) -> Observed:
        """What is there for ``owner``."""
        pods: list[PodSummary] = []
        strays: list[Stray] = []
        children: list[Child] = []
        for entry in self.store.of_owner(owner.uid):
            if isinstance(entry.content, PodSummary):
                pods.append(entry.content)
            elif isinstance(entry.content, Stray):
                strays.append(entry.content)
            elif isinstance(entry.content, Packed):
                children.append(unpack(entry.content))
        return Observed(
            cluster=self.cluster,
            pods=tuple(sorted(pods, key=lambda pod: pod.name)),
            strays=tuple(sorted(strays, key=lambda stray: stray.name)),
            children=tuple(sorted(children, key=lambda child: (child.kind, child.name))),
            strangers=self.learned.strangers(owner.uid),
            heads={
                pod.replica: self.answers[pod.uid].answer()
                for pod in sorted(pods, key=lambda pod: pod.incarnation)
                if pod.uid in self.answers
            },
            refusals=self.learned.refusals(owner.uid),
            contested=self.learned.contested(owner.uid),
            secret_exists=self.learned.has_secret(owner.uid),
        )
