"""Words of the status: condition types, phases, reasons, causes of failure. Each is an API: people alert on them."""

from __future__ import annotations

from enum import StrEnum


class ConditionType(StrEnum):
    """Types of the resource's conditions."""

    AVAILABLE = "Available"
    """True: at least one replica's head is Ready, so that requests are answered."""
    PROGRESSING = "Progressing"
    """True: the operator is on its way to what the spec asks for, and gets nearer."""
    DEGRADED = "Degraded"
    """True: something needs a person; reason and message say what, and what to do."""


class Phase(StrEnum):
    """The resource in one word, for ``kubectl get``; derived from the conditions, never the other way round."""

    PENDING = "Pending"
    """No replica has ever been ready for this generation, and none has failed."""
    PROGRESSING = "Progressing"
    """Replicas are being made, replaced or drained."""
    READY = "Ready"
    """All wanted replicas are ready, in the current revision."""
    DEGRADED = "Degraded"
    """Fewer than wanted are ready, or a child cannot be made; the condition says why."""
    PAUSED = "Paused"
    """The roll-out waits for ``spec.rollout.paused`` to end."""
    FAILED = "Failed"
    """The budget of restarts is used up; a change of the spec tries again."""
    DELETING = "Deleting"
    """The resource is being deleted; nothing new is made."""


class ReplicaPhase(StrEnum):
    """State of one pipeline replica."""

    PENDING = "Pending"
    """Its pods are not all placed on nodes."""
    STARTING = "Starting"
    """Placed; loading, or its first token is not through."""
    READY = "Ready"
    """The head is Ready: a token went through all stages lately."""
    RECOVERING = "Recovering"
    """Was ready; a stage or the head is being replaced in place."""
    DRAINING = "Draining"
    """Its pods are being deleted; running requests end first."""
    FAILED = "Failed"
    """Given up: not ready before its deadline, or the budget of a cause is used up."""


class Cause(StrEnum):
    """Why a pod ended; each cause has a restart budget of its own (``spec.restart.budget``)."""

    NODE_LOST = "NodeLost"
    """The node does not answer, was drained or refused the pod, or the pod was evicted or deleted by somebody."""
    OUT_OF_MEMORY = "OutOfMemory"
    """The kernel ended a container for memory (OOMKilled)."""
    COMMUNICATION = "Communication"
    """The engine ended because a peer did (exit code EXIT_COMMUNICATION)."""
    CONFIGURATION = "Configuration"
    """The engine refused its arguments or the model (exit code EXIT_CONFIGURATION), or an image or mount is wrong."""
    CRASH = "Crash"
    """Anything else."""


EXIT_CONFIGURATION = 2
"""Exit code of the engine: arguments or model refused; trying again as it is cannot help."""
EXIT_COMMUNICATION = 75
"""Exit code of the engine: a peer went away; a later try may succeed (EX_TEMPFAIL)."""


class Reason(StrEnum):
    """Reasons of conditions and Events."""

    # Available
    REPLICAS_READY = "ReplicasReady"
    """At least one replica answers."""
    NO_REPLICA_READY = "NoReplicaReady"
    """No replica answers."""
    SCALED_TO_ZERO = "ScaledToZero"
    """``spec.replicas`` is 0."""
    # Progressing
    UP_TO_DATE = "UpToDate"
    """Nothing is left to do."""
    REPLICA_CREATED = "ReplicaCreated"
    """A replica's objects were made."""
    REPLICA_READY = "ReplicaReady"
    """A replica's head became Ready."""
    REPLICA_NOT_READY = "ReplicaNotReady"
    """A replica's head is not Ready any more, and no pod of it ended."""
    REPLICA_DRAINING = "ReplicaDraining"
    """A replica is being drained: scale-down or roll-out."""
    REPLICA_DELETED = "ReplicaDeleted"
    """A replica's last pod is gone."""
    ROLLING_OUT = "RollingOut"
    """Replicas of an earlier revision are being replaced."""
    ROLLOUT_COMPLETE = "RolloutComplete"
    """All replicas have the current revision and are ready."""
    ROLLOUT_PAUSED = "RolloutPaused"
    """``spec.rollout.paused`` is true while old replicas remain."""
    ROLLOUT_STOPPED = "RolloutStopped"
    """A new replica failed; the old ones keep serving."""
    SCALING = "Scaling"
    """Replicas are being added or removed."""
    STAGE_REPLACED = "StageReplaced"
    """A stage's pod ended, and its next incarnation was made."""
    HEAD_REPLACED = "HeadReplaced"
    """A head pod ended, and its next incarnation was made."""
    CONTAINER_RESTARTED = "ContainerRestarted"
    """A container ended, and the kubelet restarted it in its pod."""
    REPLICA_RECOVERED = "ReplicaRecovered"
    """A replica is ready again after a replacement in place."""
    BACKING_OFF = "BackingOff"
    """The next try of a failed pod waits for its back-off."""
    POD_FORCE_DELETED = "PodForceDeleted"
    """A pod on a lost node was removed without the node's word."""
    WAITING_FOR_SCHEDULING = "WaitingForScheduling"
    """Pods are not placed; the message has the scheduler's own."""
    # Degraded
    AS_EXPECTED = "AsExpected"
    """Nothing is wrong."""
    INVALID_SPEC = "InvalidSpec"
    """The spec passed the API server and is wrong all the same; the message names field and remedy."""
    OPERATOR_FAULT = "OperatorFault"
    """The operator failed at this resource; the message has the error, and its log all of it."""
    NAME_TAKEN = "NameTaken"
    """A child's name belongs to an object that is not ours; the message says which and what to do."""
    CHILD_REFUSED = "ChildRefused"
    """The API server refuses a child (admission, quota); the message has its own."""
    POD_CANNOT_START = "PodCannotStart"
    """A container cannot be started: its image cannot be pulled, or a Secret, ConfigMap or command is missing."""
    CHILD_CONTESTED = "ChildContested"
    """Someone changes a child back after two applies."""
    REPLICA_DEADLINE = "ReplicaDeadlineExceeded"
    """A replica was not ready within ``spec.restart.replicaDeadlineSeconds`` and was given up."""
    BUDGET_EXHAUSTED = "RestartBudgetExhausted"
    """A cause used up its restarts; terminal until the spec changes."""
    GANG_UNAVAILABLE = "GangSchedulingUnavailable"
    """The gang scheduler that the spec names is not in this cluster."""
    NO_GANG = "NoGangScheduler"
    """``gang: auto`` found no gang scheduler: pods are placed one by one, and a part of a pipeline may hold
    resources."""
    EFFECT_DIFFERS = "EffectDiffers"
    """The engine reports another value than the spec asks for."""
    # Deleting
    DELETING = "Deleting"
    """The resource is being deleted."""
