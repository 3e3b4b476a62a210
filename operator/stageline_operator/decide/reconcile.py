"""Spec, Plan and Observed → Decision: the steps of one reconcile, in order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import count
from typing import Final

from stageline_operator.api.conditions import Reason
from stageline_operator.api.constants import MAX_REPLICAS
from stageline_operator.api.status import PodStatus
from stageline_operator.decide.account import account, used_by
from stageline_operator.decide.actions import Action, CreateGroupSecret, Decision, WriteStatus, ref_of
from stageline_operator.decide.deadlines import clock, judge
from stageline_operator.decide.desired import Desired
from stageline_operator.decide.events import events
from stageline_operator.decide.failures import misses_secret
from stageline_operator.decide.fleet import sort_fleet
from stageline_operator.decide.heal import Steps, delete_child, dismiss, heal, remove
from stageline_operator.decide.observed import Observed
from stageline_operator.decide.outcome import Course, Outcome, Problem
from stageline_operator.decide.replicas import Replica, Slot, labels, replicas
from stageline_operator.decide.rollout import Moves, is_stopped, keep, next_moves
from stageline_operator.decide.status import make_status
from stageline_operator.objects.gang import Gang, gang_of, resolve
from stageline_operator.plan import names
from stageline_operator.plan.plan import Plan, RevisionPlan
from stageline_operator.plan.spec import Spec

MAX_NUMBER: Final = 10 * MAX_REPLICAS
"""No replica has this number or a greater one: the smallest free one is taken."""


def decide(spec: Spec, plan: Plan, observed: Observed, now: float) -> Decision:
    """What to do now.

    The same inputs give the same decision, and a decision that was carried out is followed by one that does nothing.
    What must be remembered is written into the status first, and acted upon by the next decision.
    """
    fleet = sort_fleet(spec, plan, replicas(spec, plan, observed), now)
    gang = resolve(plan.gang, observed.cluster, plan.current.scheduling.scheduler_name)
    outcome = Outcome(spec, plan, observed, now, gang, fleet)
    return _finish(outcome) if spec.deleting else _strive(outcome)


def _strive(outcome: Outcome) -> Decision:
    """Towards what the spec asks for."""
    plan, observed, fleet, now = outcome.plan, outcome.observed, outcome.fleet, outcome.now
    desired = Desired(plan, observed)
    has_shared = desired.want_shared()
    may_create = _has_gang(outcome) and has_shared
    # While no new replica can be made, none is drained to make room for one.
    moves = next_moves(plan, fleet) if may_create else keep(plan, fleet)
    drained = {replica.number for replica, _ in moves.drain}
    staying = [replica for replica in fleet.live if replica.number not in drained]
    born = _born(moves, outcome)
    outcome.is_stopped = is_stopped(plan, fleet)
    outcome.courses = list(_courses([*staying, *born], outcome))
    outcome.draining = (
        *(replica for replica, _ in moves.drain),
        *(replica for replica in fleet.leaving if not replica.is_failed),
    )
    outcome.waiting = _waiting(outcome, born)
    outcome.problems += _lost_gangs(outcome)

    desired.want_revisions(outcome.spec.generation, [each.revision for each in (*fleet.live, *fleet.leaving)])
    for course in outcome.courses:
        desired.want_replica(course)
    strays = remove(observed.strays, now)
    steps = [course.steps for course in outcome.courses]
    steps += [dismiss(replica.pods, why, now) for replica, why in moves.drain]
    steps += [dismiss(replica.pods, "its replica leaves", now) for replica in fleet.leaving]
    # First: a pod that is to be made may need the name of one of them.
    actions = [*strays.actions, *desired.applies, *_secret(outcome, is_first=bool(born) and not observed.pods)]
    actions += desired.free(action for step in steps for action in step.actions)
    actions += _leftovers(outcome, desired)
    actions += (action for course in outcome.courses for action in desired.unwanted_of(course))
    actions += desired.removals()
    outcome.problems += desired.problems
    return _decision(outcome, actions, [*steps, strays])


def _finish(outcome: Outcome) -> Decision:
    """The resource is being deleted: nothing is made, the garbage collector deletes. Only lost nodes need a hand."""
    fleet = outcome.fleet
    outcome.draining = tuple(replica for replica in (*fleet.live, *fleet.leaving) if not replica.is_failed)
    going = [pod for replica in (*fleet.live, *fleet.leaving) for pod in replica.pods if pod.gone_at is not None]
    steps = dismiss(going, "the resource is being deleted", outcome.now)
    strays = remove((stray for stray in outcome.observed.strays if stray.gone_at is not None), outcome.now)
    return _decision(outcome, [*steps.actions, *strays.actions], [steps, strays])


def _decision(outcome: Outcome, actions: list[Action], steps: Iterable[Steps]) -> Decision:
    outcome.tried = frozenset(ref for action in actions if (ref := ref_of(action)) is not None)
    status = make_status(outcome)
    told = events(outcome, status, actions)
    wakes = [wake for step in steps for wake in step.wakes] + outcome.wakes()
    return Decision(
        actions=(*actions, *told, *([WriteStatus(status)] if status != outcome.spec.status else [])),
        again_after=max(0.0, min(wakes) - outcome.now) if wakes else None,
        poll=outcome.is_moving,
    )


def _has_gang(outcome: Outcome) -> bool:
    if not outcome.gang.is_here:
        message = (
            f"spec.scheduling.gang is {outcome.gang.name}, which this cluster does not have; install it, or delete the"
            " resource and create it with gang: auto"
        )
        outcome.problems.append(Problem(Reason.GANG_UNAVAILABLE, message))
    return outcome.gang.is_here


def _lost_gangs(outcome: Outcome) -> list[Problem]:
    """Replicas whose gang scheduler was uninstalled. Their pods stay marked for it: were one placed without it, the
    group would never be whole again when it is back."""
    message = (
        "replica {} was made for {}, which this cluster does not have any more: a pod that is replaced may find no"
        " node; install it again, or delete all pods of the replica, and another is made in its stead"
    )
    return [
        Problem(Reason.GANG_UNAVAILABLE, message.format(course.replica.number, course.gang.name))
        for course in outcome.courses
        if not course.gang.is_here and course.gang.name != outcome.gang.name
    ]


def _born(moves: Moves, outcome: Outcome) -> list[Replica]:
    """The replicas to create: first those of which something is there already, then new numbers, the smallest free."""
    begun = [
        replica
        for replica in outcome.fleet.unborn
        if replica.revision == moves.target.revision and replica.number < MAX_NUMBER  # else: a label was changed
    ]
    taken = outcome.fleet.numbers
    free = (number for number in count() if number not in taken)
    fresh = (_fresh(next(free), moves.target, outcome.now) for _ in range(moves.create - len(begun)))
    return [*begun[: moves.create], *fresh]


def _fresh(number: int, plan: RevisionPlan, now: float) -> Replica:
    slots = tuple(Slot(stage, (), PodStatus()) for stage in (None, *range(len(plan.stages))))
    return Replica(number, plan.revision, plan, now, slots, (), (), None, None)


def _courses(staying: Iterable[Replica], outcome: Outcome) -> Iterator[Course]:
    """What becomes of each replica that stays. One that was made in the stead of a given-up one goes on with its
    books, unless these were used up: then only a change of the spec makes another, and that tries again in earnest."""
    plan, now = outcome.plan, outcome.now
    due = list(outcome.fleet.due)
    for replica in staying:
        before: Replica | None = replica
        if replica.memory is None:
            before = next((each for each in due if each.revision == replica.revision), None)
            due = [each for each in due if each is not before]
        times = clock(replica, now)
        is_well = times.ready is not None and now >= times.ready + plan.restart.reset_seconds
        is_fresh = before is None or before.is_terminal or is_well
        books = account(replica, {} if before is None or is_fresh else used_by(before.memory), now)
        given_up = judge(replica, books, times, plan.restart, names.group_secret(plan.owner), now)
        gangs = [gang_of(labels(child), outcome.observed.cluster) for child in replica.children]
        gang = next((gang for gang in gangs if gang is not None), None) or _gang(replica, outcome)
        steps = Steps()
        if given_up is None and replica.plan is not None:
            steps = heal(replica, replica.plan, plan.owner, gang, books, plan.restart, now)
        yield Course(replica, books, times, given_up, gang, steps)


def _gang(replica: Replica, outcome: Outcome) -> Gang:
    """Who places a replica that is being made; its revision may name another scheduler than the current one."""
    if replica.plan is None:
        return outcome.gang
    return resolve(outcome.plan.gang, outcome.observed.cluster, replica.plan.scheduling.scheduler_name)


def _waiting(outcome: Outcome, born: list[Replica]) -> tuple[Replica, ...]:
    """Given-up replicas that the status goes on telling of: in their stead nothing is made yet, or their pods are still
    there."""
    fleet, plan = outcome.fleet, outcome.plan
    mine = [course for course in outcome.courses if course.replica.revision == plan.current.revision]
    open_places = max(0, plan.replicas - len(mine))
    held = fleet.held[:open_places]
    due = fleet.due[len(born) :][: max(0, open_places - len(held))]
    ending = [replica for replica in fleet.leaving if replica.is_failed and replica not in (*held, *due)]
    return (*held, *due, *ending)


def _secret(outcome: Outcome, *, is_first: bool) -> list[Action]:
    """The group's keys are made before the first pod, and anew when a pod reports them missing."""
    secret = names.group_secret(outcome.plan.owner)
    pods = [slot.live for replica in outcome.fleet.live for slot in replica.slots]
    if any(pod is not None and misses_secret(pod, secret) for pod in pods):
        return [CreateGroupSecret("a pod reports that it is missing")]
    return [CreateGroupSecret("pods need it")] if is_first and not outcome.observed.secret_exists else []


def _leftovers(outcome: Outcome, desired: Desired) -> list[Action]:
    """Objects of replicas whose last pod is gone; not one that only says so, since its label was changed."""
    staying = {course.replica.number for course in outcome.courses}
    ended = [replica for replica in (*outcome.fleet.gone, *outcome.fleet.unborn) if replica.number not in staying]
    return [
        delete_child(child, "its replica is gone")
        for replica in ended
        for child in replica.children
        if not child.deleting and not desired.wants(child)
    ]
