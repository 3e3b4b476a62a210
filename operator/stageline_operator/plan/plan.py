"""Spec → Plan: everything resolved that the objects of a resource depend on."""

from __future__ import annotations

from dataclasses import dataclass

from stageline_operator.api.model import Model
from stageline_operator.api.monitoring import Monitoring
from stageline_operator.api.network import Network
from stageline_operator.api.pod_settings import PodSettings
from stageline_operator.api.pod_template import PodSecurity
from stageline_operator.api.restart import Restart
from stageline_operator.api.rollout import Rollout
from stageline_operator.api.scheduling import Scheduling
from stageline_operator.plan.spec import Owner


@dataclass(frozen=True, slots=True)
class StagePlan:
    """One pipeline stage, with all defaults put in.

    Attributes:
        stage: its number, from 0.
        layers: range [start, end); None: the engine splits.
        settings: podTemplate, stageDefaults and the stage's own joined; see plan.merge.
    """

    stage: int
    tensor_parallel: int
    layers: tuple[int, int] | None
    settings: PodSettings


@dataclass(frozen=True, slots=True)
class RevisionPlan:
    """All that the pods of one replica depend on; immutable, since pods are. One per revision.

    A replica is healed from its own revision's plan, so that replicas never mix revisions, also in mid roll-out.

    Attributes:
        revision: 10 characters that tell it from others; a label's value.
        content: what is hashed, and kept in the ControllerRevision; see plan.revision.
        engine_arguments: flags of ``stageline serve`` for the head, from model, pipeline and engine.
        log_level: of the stages; the head has it among its flags.
        head: podTemplate and head joined.
        grace_head, grace_stage: ``terminationGracePeriodSeconds``; a stage's is longer, so that it serves to the end.
    """

    revision: str
    content: str
    model: Model
    served_name: str
    image: str
    image_pull_policy: str
    image_pull_secrets: tuple[str, ...]
    engine_arguments: tuple[str, ...]
    log_level: str
    head: PodSettings
    stages: tuple[StagePlan, ...]
    labels: dict[str, str]
    annotations: dict[str, str]
    security: PodSecurity
    scheduling: Scheduling
    api_keys: tuple[str, str] | None
    node_lost_seconds: int
    grace_head: int
    grace_stage: int

    @property
    def pods_per_replica(self) -> int:
        """Head and stages."""
        return 1 + len(self.stages)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a resource asks for.

    Attributes:
        current: the revision of the spec.
        earlier: by revision, what live or kept ControllerRevisions hold; for healing and counting old replicas.
    """

    owner: Owner
    generation: int
    replicas: int
    current: RevisionPlan
    earlier: dict[str, RevisionPlan]
    rollout: Rollout
    restart: Restart
    network: Network
    monitoring: Monitoring
    gang: str
    """As asked for; ``auto`` is resolved against plan.cluster.Cluster by objects.gang."""

    def revision(self, name: str) -> RevisionPlan | None:
        """The plan of a revision; None when nothing knows it any more."""
        return self.current if name == self.current.revision else self.earlier.get(name)
