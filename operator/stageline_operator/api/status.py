"""The whole of ``status``: what is, never what is wanted. The operator alone writes it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from stageline_operator.api.base import ApiModel
from stageline_operator.api.conditions import Cause, ConditionType, Phase, ReplicaPhase
from stageline_operator.api.constants import MAX_EFFECTIVE, MAX_LISTED, MAX_LOG_TAIL, MAX_STAGES

Text = Annotated[str, Field(max_length=253)]
Message = Annotated[str, Field(max_length=1024)]
Time = Annotated[str, Field(max_length=32, pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")]
"""RFC 3339 in UTC, whole seconds."""
Count = Annotated[int, Field(ge=0, le=2**31 - 1)]


class Condition(ApiModel):
    """A statement about the resource, as metav1.Condition."""

    type: ConditionType
    """Available, Progressing or Degraded."""
    status: Literal["True", "False", "Unknown"]
    """Whether it holds."""
    reason: Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$")]
    """Why, in one word that programs can compare."""
    message: Message = ""
    """Why, for a person: what is wrong, and what to do."""
    last_transition_time: Time
    """When `status` last changed."""
    observed_generation: Count
    """Generation of the spec that this speaks of."""


class _Brief(ApiModel):
    """Empty texts are left out: there is one of these for each pod, and all must fit in one object."""

    @model_serializer(mode="wrap")
    def _without_blanks(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = dump(self)
        return {name: value for name, value in values.items() if value != ""}


class Failure(_Brief):
    """How a pod ended."""

    cause: Cause
    """Class of the failure; each has its own restart budget."""
    pod: Text
    """The pod that ended."""
    time: Time
    """When."""
    exit_code: Annotated[int, Field(ge=-255, le=255)] | None = None
    """Exit code of its container; absent when the node never told it."""
    reason: Text = ""
    """The kubelet's word for it, e.g. OOMKilled, Error, ImagePullBackOff."""
    log_tail: Annotated[str, Field(max_length=MAX_LOG_TAIL)] = ""
    """Last lines of its log."""


class PodStatus(_Brief):
    """The pod of a head or of a stage."""

    pod: Text = ""
    """Its name; empty while there is none."""
    node: Text = ""
    """Its node; empty while it is not placed."""
    ready: bool = False
    """Its Ready condition. Stage: loaded and a member of the epoch. Head: a token went through all stages lately."""
    ready_since: Time | None = None
    """Since when it is ready."""
    incarnation: Count = 0
    """Which pod in a row it is."""
    restarts: Count = 0
    """Restarts of its container that are counted in the replica's `restarts`."""
    last_failure: Failure | None = None
    """How its container, or the pod before it, last ended."""


class StageStatus(PodStatus):
    """One pipeline stage of a replica."""

    stage: Annotated[int, Field(ge=0, lt=MAX_STAGES)]
    """Number of the stage, from 0."""


class RestartCount(ApiModel):
    """How much of a cause's budget a replica has used."""

    cause: Cause
    """Class of the failures."""
    used: Count
    """Restarts since the budget last began anew."""


class ReplicaStatus(ApiModel):
    """One pipeline replica."""

    replica: Count
    """Its number; part of the names of its objects."""
    revision: Text
    """Revision of all its pods."""
    phase: ReplicaPhase
    """Its state."""
    created: Time
    """When its first pod was made."""
    ready_since: Time | None = None
    """Since when its head is ready."""
    not_ready_since: Time | None = None
    """Since when it is not, if it ever was."""
    placed_since: Time | None = None
    """Since when all its pods have nodes; deadlines count from here."""
    epoch: Count | None = None
    """Generation of its process groups, as the head reports it."""
    head: PodStatus = PodStatus()
    """Its head."""
    stages: Annotated[tuple[StageStatus, ...], Field(max_length=MAX_STAGES)] = ()
    """Its stages, in order. Of thousands of pods the status has no room for all: then log lines are left out, then
    stages that have always been well, then what only a person reads."""
    restarts: Annotated[tuple[RestartCount, ...], Field(max_length=8)] = ()
    """Restarts that count against the budget."""
    next_restart: Time | None = None
    """When a pod that waits for its back-off is made again."""
    message: Message = ""
    """What it waits for or why it failed."""


class StagePlanStatus(ApiModel):
    """One stage of the plan."""

    stage: Annotated[int, Field(ge=0, lt=MAX_STAGES)]
    """Number of the stage, from 0."""
    tensor_parallel: Count
    """Its tensor-parallel ranks."""
    layers: Text = ""
    """Its layer range, `start-end` with the end not in it; as the engine reports it when the split is automatic."""


class PlanStatus(ApiModel):
    """What the operator makes of the spec."""

    revision: Text
    """Hash of everything that a replica's pods depend on."""
    stages: Count
    """Number of pipeline stages."""
    tensor_parallel: Text
    """Tensor-parallel ranks: one number, or one for each stage with commas."""
    model: Annotated[str, Field(max_length=512)]
    """The model's source with its revision."""
    pods_per_replica: Count
    """Head and stages."""
    gang: Text
    """Who places the pods of a replica together: native, volcano, coscheduling, kueue or none."""
    stage_list: Annotated[tuple[StagePlanStatus, ...], Field(max_length=MAX_STAGES)] = ()
    """The stages, in order."""


class EffectiveSetting(ApiModel):
    """A field of the spec with the value that is in force."""

    field: Text
    """Path of the field, e.g. `spec.engine.maxNumSeqs`."""
    value: Message
    """The value in force, as text."""
    source: Literal["operator", "engine"]
    """Who says so: the engine reports it, or the operator puts it into the objects itself."""


class InferenceDeploymentStatus(ApiModel):
    """What is: conditions, replicas, and the value in force of each field."""

    observed_generation: Count = 0
    """Generation of the spec that this speaks of."""
    phase: Phase | None = None
    """The resource in one word."""
    reason: Text = ""
    """Why, in one word: the reason of the condition that the phase comes from."""
    replicas: Count = 0
    """Replicas that exist, the draining ones apart; for the scale subresource."""
    ready_replicas: Count = 0
    """Replicas whose head is ready."""
    updated_replicas: Count = 0
    """Replicas of the current revision."""
    ready: Text = ""
    """Ready and wanted replicas, e.g. `2/2`."""
    selector: Annotated[str, Field(max_length=512)] = ""
    """Label selector of the heads, for the scale subresource: autoscalers count heads, not stages."""
    current_revision: Text = ""
    """Revision of the spec."""
    settled_revision: Text = ""
    """Revision that all replicas had when last nothing was left to do."""
    conditions: Annotated[tuple[Condition, ...], Field(max_length=8)] = ()
    """Available, Progressing, Degraded."""
    plan: PlanStatus | None = None
    """What the operator makes of the spec."""
    replica_list: Annotated[tuple[ReplicaStatus, ...], Field(max_length=MAX_LISTED)] = ()
    """The replicas, the ones in trouble first, then by number."""
    effective: Annotated[tuple[EffectiveSetting, ...], Field(max_length=MAX_EFFECTIVE)] = ()
    """Each field of the spec with the value in force, also where it was left to the operator or the engine."""
    effective_revision: Text = ""
    """Revision that `effective` tells of: the one that answers requests. In a roll-out that is paused or stopped it is
    another than `currentRevision`."""
    last_failure: Failure | None = None
    """The latest failure of all replicas; kept after its replica is gone."""
