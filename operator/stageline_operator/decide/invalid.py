"""A resource whose spec is wrong although the API server took it: said in the status, and nothing is touched."""

from __future__ import annotations

from stageline_operator.api.conditions import ConditionType, Phase, Reason
from stageline_operator.api.errors import SpecError
from stageline_operator.api.status import InferenceDeploymentStatus
from stageline_operator.decide.actions import Action, Decision, EmitEvent, WriteStatus
from stageline_operator.decide.conditions import condition


def decide_invalid(error: SpecError, before: InferenceDeploymentStatus, generation: int, now: float) -> Decision:
    """Say what is wrong; pods that run go on running, and the rest of the status stays as it was."""
    kept = [each for each in before.conditions if each.type is not ConditionType.DEGRADED]
    degraded = condition(
        before.conditions, ConditionType.DEGRADED, (True, Reason.INVALID_SPEC, str(error)), generation, now
    )
    status = before.model_copy(
        update={
            "observed_generation": generation,
            "phase": Phase.DEGRADED,
            "reason": Reason.INVALID_SPEC.value,
            "conditions": (*kept, degraded),
        }
    )
    if status == before:
        return Decision((), None, False)
    event: Action = EmitEvent("Warning", Reason.INVALID_SPEC, str(error))
    return Decision((event, WriteStatus(status)), None, False)
