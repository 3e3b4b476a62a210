"""Available, Progressing, Degraded, and the phase that follows from them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal

from stageline_operator.api.conditions import ConditionType, Phase, Reason
from stageline_operator.api.status import Condition, EffectiveSetting
from stageline_operator.decide.deadlines import troubles
from stageline_operator.decide.effective import differing
from stageline_operator.decide.outcome import Outcome, Problem
from stageline_operator.decide.replica_status import cut, unplaced
from stageline_operator.decide.replicas import Replica
from stageline_operator.decide.times import to_text

Statement = tuple[bool | None, Reason, str]
"""Whether a condition holds (None: nobody can tell), why in a word, why for a person."""


WORST_FIRST: Final = (
    Reason.NAME_TAKEN,
    Reason.GANG_UNAVAILABLE,
    Reason.ROLLOUT_STOPPED,
    Reason.BUDGET_EXHAUSTED,
    Reason.CHILD_REFUSED,
    Reason.POD_CANNOT_START,
    Reason.REPLICA_DEADLINE,
    Reason.CHILD_CONTESTED,
    Reason.EFFECT_DIFFERS,
)
"""Reasons to call a person; the first that holds is the condition's."""


def problems(outcome: Outcome, settings: Iterable[EffectiveSetting]) -> list[Problem]:
    """All that needs a person, the worst first."""
    found = list(outcome.problems)
    found += [
        Problem(
            Reason.CHILD_REFUSED, f"the API server refuses {refusal.ref.kind} {refusal.ref.name}: {refusal.message}"
        )
        for refusal in outcome.observed.refusals
        if refusal.ref in outcome.tried
    ]
    for course in outcome.courses:
        if course.given_up is not None:
            is_final = course.given_up.retry_at is None
            reason = Reason.BUDGET_EXHAUSTED if is_final else Reason.REPLICA_DEADLINE
            found.append(Problem(reason, f"replica {course.replica.number}: {course.given_up.message}"))
        elif sentences := troubles(course.replica):
            found.append(Problem(Reason.POD_CANNOT_START, f"replica {course.replica.number}: {'; '.join(sentences)}"))
    for replica in outcome.waiting:
        memory = replica.memory
        if memory is not None and replica in (*outcome.fleet.held, *outcome.fleet.due):
            reason = Reason.BUDGET_EXHAUSTED if memory.next_restart is None else Reason.REPLICA_DEADLINE
            found.append(Problem(reason, f"replica {replica.number}: {memory.message}"))
    if outcome.is_stopped:
        found.append(Problem(Reason.ROLLOUT_STOPPED, _stopped(outcome)))
    found += [Problem(Reason.EFFECT_DIFFERS, sentence) for sentence in differing(outcome, settings)]
    return sorted(found, key=lambda problem: WORST_FIRST.index(problem.reason))


def available(outcome: Outcome) -> Statement:
    """At least one replica answers."""
    if outcome.ready:
        return True, Reason.REPLICAS_READY, f"{outcome.ready} of {outcome.plan.replicas} replicas answer"
    if not outcome.plan.replicas:
        return False, Reason.SCALED_TO_ZERO, "spec.replicas is 0"
    return False, Reason.NO_REPLICA_READY, "no replica answers"


def progressing(outcome: Outcome) -> Statement:
    """On the way to what the spec asks for."""
    if outcome.spec.deleting:
        return False, Reason.DELETING, "the resource is being deleted"
    if outcome.is_settled:
        return False, Reason.UP_TO_DATE, "all replicas have the current revision and are ready"
    if outcome.old and outcome.plan.rollout.paused:
        message = f"{outcome.old} replicas keep an earlier revision until spec.rollout.paused is false"
        return False, Reason.ROLLOUT_PAUSED, message
    if outcome.is_stopped:
        return False, Reason.ROLLOUT_STOPPED, _stopped(outcome)
    blocked = next(
        (each for each in outcome.problems if each.reason in (Reason.NAME_TAKEN, Reason.GANG_UNAVAILABLE)), None
    )
    if (
        blocked is not None
        and not outcome.draining
        and not any(_is_coming(course.replica) for course in outcome.staying)
    ):
        return False, blocked.reason, blocked.message
    waiting = [pod for course in outcome.staying for pod in unplaced(course.replica) if pod.unschedulable]
    if waiting:
        return True, Reason.WAITING_FOR_SCHEDULING, f"{waiting[0].name} finds no node: {waiting[0].unschedulable}"
    if outcome.old or any(replica.revision != outcome.plan.current.revision for replica in outcome.draining):
        message = f"{outcome.updated} of {outcome.plan.replicas} replicas have the current revision"
        return True, Reason.ROLLING_OUT, message
    if all(replica.memory is not None and replica.memory.next_restart is None for replica in outcome.waiting) and (
        outcome.waiting and len(outcome.staying) == outcome.ready and not outcome.draining
    ):
        return False, Reason.BUDGET_EXHAUSTED, "nothing more is tried until the spec changes"
    if outcome.waiting or any(course.steps.restart_at is not None for course in outcome.staying):
        return True, Reason.BACKING_OFF, "the next try waits for its back-off"
    count = f"{outcome.ready} of {outcome.plan.replicas} replicas are ready"
    if outcome.draining:
        count += f", {len(outcome.draining)} drain"
    return True, Reason.SCALING, count


def _stopped(outcome: Outcome) -> str:
    """What became of the roll-out, and what comes next."""
    retries = [replica.memory.next_restart for replica in outcome.waiting if replica.memory is not None]
    times = sorted(retry for retry in retries if retry is not None)
    then = f"another is tried at {times[0]}" if times else "change the spec to try again"
    kept = "; the old ones keep serving" if outcome.ready else ""
    return f"a replica of the new revision failed{kept}; {then}"


def _is_coming(replica: Replica) -> bool:
    """It is not ready, and nothing has to be made for it: it only starts."""
    return not replica.is_ready and all(slot.live is not None for slot in replica.slots)


def degraded(outcome: Outcome, found: list[Problem]) -> Statement:
    """Something needs a person."""
    if found:
        return True, found[0].reason, "; ".join(dict.fromkeys(problem.message for problem in found))
    if outcome.plan.gang == "auto" and outcome.gang.name == "none":
        message = (
            "gang: auto found no gang scheduler that it can use: pods are placed one by one, and a part of a pipeline"
            " may hold resources while the rest finds none"
        )
        cluster, scheduler = outcome.observed.cluster, outcome.plan.current.scheduling.scheduler_name
        if cluster.coscheduling and scheduler is None:
            message += "; for coscheduling, name its scheduler in spec.scheduling.schedulerName"
        elif cluster.volcano and scheduler is not None:
            message += f"; Volcano is here, and spec.scheduling.schedulerName is {scheduler}"
        return False, Reason.NO_GANG, message
    return False, Reason.AS_EXPECTED, ""


def phase(outcome: Outcome, conditions: Iterable[Condition]) -> tuple[Phase, str]:
    """The resource in one word, and the reason of the condition that it comes from."""
    by_type = {condition.type: condition for condition in conditions}
    moving, bad = by_type[ConditionType.PROGRESSING], by_type[ConditionType.DEGRADED]
    if outcome.spec.deleting:
        return Phase.DELETING, moving.reason
    if bad.status == "True":
        is_over = bad.reason == Reason.BUDGET_EXHAUSTED and not outcome.ready
        return (Phase.FAILED if is_over else Phase.DEGRADED), bad.reason
    if moving.reason == Reason.ROLLOUT_PAUSED:
        return Phase.PAUSED, moving.reason
    if outcome.is_settled:
        return Phase.READY, moving.reason
    was_ready = any(course.times.ready or course.times.not_ready for course in outcome.staying)
    return (Phase.PROGRESSING if was_ready or outcome.old else Phase.PENDING), moving.reason


def make_conditions(outcome: Outcome, settings: Iterable[EffectiveSetting]) -> tuple[Condition, ...]:
    """All three; a condition keeps its time while its status stays."""
    statements = {
        ConditionType.AVAILABLE: available(outcome),
        ConditionType.PROGRESSING: progressing(outcome),
        ConditionType.DEGRADED: degraded(outcome, problems(outcome, settings)),
    }
    return tuple(
        condition(outcome.spec.status.conditions, kind, statement, outcome.spec.generation, outcome.now)
        for kind, statement in statements.items()
    )


def condition(
    before: Iterable[Condition], kind: ConditionType, statement: Statement, generation: int, now: float
) -> Condition:
    """One condition."""
    holds, reason, message = statement
    status: Literal["True", "False", "Unknown"] = "Unknown" if holds is None else "True" if holds else "False"
    since = next((each.last_transition_time for each in before if each.type is kind and each.status == status), None)
    return Condition(
        type=kind,
        status=status,
        reason=reason.value,
        message=cut(message),
        last_transition_time=since or to_text(now),
        observed_generation=generation,
    )
