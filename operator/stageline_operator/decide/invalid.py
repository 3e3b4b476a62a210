"""A resource on which nothing can be decided: said in the status, and nothing is touched."""

from __future__ import annotations

from stageline_operator.api.conditions import ConditionType, Phase, Reason
from stageline_operator.api.errors import SpecError
from stageline_operator.api.status import InferenceDeploymentStatus
from stageline_operator.decide.actions import Action, Decision, EmitEvent, WriteStatus
from stageline_operator.decide.conditions import condition


def decide_invalid(error: SpecError, before: InferenceDeploymentStatus, generation: int, now: float) -> Decision:
    """Say what is wrong with a spec that the API server took; pods that run go on running, and the rest of the status
    stays as it was."""
    return _say(Reason.INVALID_SPEC, str(error), before, generation, now)


def decide_fault(error: Exception, before: InferenceDeploymentStatus, generation: int, now: float) -> Decision:
    """Say that the operator itself failed, which nobody would see otherwise; its log alone has where."""
    first = next(iter(str(error).splitlines()), "")
    message = (
        f"the operator fails at this resource, so nothing is healed or changed: {type(error).__name__}: {first};"
        " it tries again; its log has the rest: please report it"
    )
    return _say(Reason.OPERATOR_FAULT, message, before, generation, now)


def _say(reason: Reason, message: str, before: InferenceDeploymentStatus, generation: int, now: float) -> Decision:
    kept = [each for each in before.conditions if each.type is not ConditionType.DEGRADED]
    degraded = condition(before.conditions, ConditionType.DEGRADED, (True, reason, message), generation, now)
    status = before.model_copy(
        update={
            "observed_generation": generation,
            "phase": Phase.DEGRADED,
            "reason": reason.value,
            "conditions": (*kept, degraded),
        }
    )
    if status == before:
        return Decision((), None, False)
    event: Action = EmitEvent("Warning", reason, message)
    return Decision((event, WriteStatus(status)), None, False)
