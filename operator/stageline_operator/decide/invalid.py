"""A resource on which nothing can be decided, since its spec is wrong although the API server took it, or since we fail
at it: said in the status, and nothing is touched. A deletion needs no spec."""

from __future__ import annotations

from stageline_operator.api.conditions import ConditionType, Phase, Reason
from stageline_operator.api.errors import SpecError
from stageline_operator.api.status import InferenceDeploymentStatus
from stageline_operator.decide.actions import Action, Decision, EmitEvent, ForceDelete, WriteStatus
from stageline_operator.decide.conditions import Statement, condition
from stageline_operator.decide.heal import dismiss, remove
from stageline_operator.decide.observed import Observed


def decide_invalid(error: SpecError, before: InferenceDeploymentStatus, generation: int, now: float) -> Decision:
    """Say what is wrong with a spec that the API server took."""
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
    """Pods that run go on running, and the rest of the status stays as it was. Whether they serve, and whether anything
    moves, is not looked at meanwhile."""
    unknown: Statement = (None, reason, "not looked at meanwhile")
    statements: dict[ConditionType, Statement] = {
        ConditionType.AVAILABLE: unknown,
        ConditionType.PROGRESSING: unknown,
        ConditionType.DEGRADED: (True, reason, message),
    }
    status = before.model_copy(
        update={
            "observed_generation": generation,
            "phase": Phase.DEGRADED,
            "reason": reason.value,
            "conditions": tuple(
                condition(before.conditions, kind, statement, generation, now) for kind, statement in statements.items()
            ),
        }
    )
    if status == before:
        return Decision((), None, False)
    event: Action = EmitEvent("Warning", reason, message)
    return Decision((event, WriteStatus(status)), None, False)


def decide_invalid_deletion(
    before: InferenceDeploymentStatus, observed: Observed, generation: int, now: float
) -> Decision:
    """The resource is being deleted: as with any other, the garbage collector does it, and only pods on lost nodes need
    a hand."""
    going = [pod for pod in observed.pods if pod.gone_at is not None]
    strays = remove((stray for stray in observed.strays if stray.gone_at is not None), now)
    pods = dismiss(going, "the resource is being deleted", now)
    actions, wakes = [*pods.actions, *strays.actions], [*pods.wakes, *strays.wakes]
    leaving: Statement = (False, Reason.DELETING, "the resource is being deleted")
    progressing = condition(before.conditions, ConditionType.PROGRESSING, leaving, generation, now)
    others = (each for each in before.conditions if each.type is not ConditionType.PROGRESSING)
    status = before.model_copy(
        update={
            "observed_generation": generation,
            "phase": Phase.DELETING,
            "reason": Reason.DELETING.value,
            "conditions": (*others, progressing),
        }
    )
    told = (
        EmitEvent("Warning", Reason.POD_FORCE_DELETED, f"{action.ref.name}: {action.why}", action.ref)
        for action in actions
        if isinstance(action, ForceDelete)
    )
    return Decision(
        actions=(*actions, *told, *([WriteStatus(status)] if status != before else [])),
        again_after=max(0.0, min(wakes) - now) if wakes else None,
        poll=False,
    )
