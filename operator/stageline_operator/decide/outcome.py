"""What one reconcile found and does: the input of status and Events."""

from __future__ import annotations

from dataclasses import dataclass, field

from stageline_operator.api.conditions import Reason
from stageline_operator.decide.account import Books
from stageline_operator.decide.actions import Ref
from stageline_operator.decide.deadlines import Clock, GivenUp, deadline, reset_at
from stageline_operator.decide.fleet import Fleet
from stageline_operator.decide.heal import Steps
from stageline_operator.decide.observed import Observed
from stageline_operator.decide.replicas import Replica
from stageline_operator.decide.times import seconds_or_none
from stageline_operator.objects.gang import Gang
from stageline_operator.plan.plan import Plan
from stageline_operator.plan.spec import Spec


@dataclass(frozen=True, slots=True)
class Course:
    """What becomes of a replica that stays.

    Attributes:
        given_up: it goes as soon as the status says so; None: it stays.
        gang: who places its pods; a replica keeps the one that it was made for.
    """

    replica: Replica
    books: Books
    times: Clock
    given_up: GivenUp | None
    gang: Gang
    steps: Steps


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that needs a person."""

    reason: Reason
    message: str


@dataclass(slots=True)
class Outcome:
    """What one reconcile found and does.

    Attributes:
        gang: who places the pods of replicas that are made now.
        courses: replicas that stay, and those that are being made.
        draining: replicas that are being drained.
        waiting: given-up replicas that the status goes on telling of.
        is_stopped: the roll-out goes no further.
        tried: objects that are made, changed or deleted now.
    """

    spec: Spec
    plan: Plan
    observed: Observed
    now: float
    gang: Gang
    fleet: Fleet
    courses: list[Course] = field(default_factory=list)
    draining: tuple[Replica, ...] = ()
    waiting: tuple[Replica, ...] = ()
    problems: list[Problem] = field(default_factory=list)
    is_stopped: bool = False
    tried: frozenset[Ref] = frozenset()

    @property
    def staying(self) -> list[Course]:
        """Replicas that were not given up just now."""
        return [course for course in self.courses if course.given_up is None]

    @property
    def ready(self) -> int:
        """How many of them are ready."""
        return sum(course.replica.is_ready for course in self.staying)

    @property
    def updated(self) -> int:
        """How many of them have the current revision."""
        return sum(course.replica.revision == self.plan.current.revision for course in self.staying)

    @property
    def old(self) -> int:
        """How many of them have an earlier one."""
        return len(self.staying) - self.updated

    @property
    def is_settled(self) -> bool:
        """All is as wanted: nothing starts, drains or waits."""
        return (
            len(self.staying) == self.ready == self.updated == self.plan.replicas
            and not self.draining
            and not self.waiting
            and len(self.courses) == len(self.staying)
        )

    @property
    def is_moving(self) -> bool:
        """Something starts, recovers, drains or is rolled, or a head was not asked since it is ready: heads have
        news."""
        is_changing = bool(self.draining or self.old or self.ready < len(self.courses))
        return is_changing or not all(course.replica.has_told for course in self.staying)

    def wakes(self) -> list[float]:
        """Times at which something is due though nothing happens."""
        restart = self.plan.restart
        retries = [
            seconds_or_none(replica.memory.next_restart) for replica in self.waiting if replica.memory is not None
        ]
        times = [retry for retry in retries if retry is not None and retry > self.now]
        for course in self.courses:
            if course.given_up is not None:
                times.append(self.now)  # the status has to say it first
            else:
                due = (reset_at(course.times, course.books, restart), deadline(course.times, restart))
                times += (time for time in due if time is not None)
        return times
