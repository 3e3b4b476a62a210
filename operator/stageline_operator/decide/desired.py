"""The objects that are wanted besides pods, compared with those that are there."""

from __future__ import annotations

from collections.abc import Iterable

from stageline_operator.api.conditions import Reason
from stageline_operator.api.constants import LABEL_REPLICA
from stageline_operator.decide.actions import Action, Apply, Create, Ref
from stageline_operator.decide.children import differs
from stageline_operator.decide.heal import delete_child
from stageline_operator.decide.observed import Child, Observed
from stageline_operator.decide.outcome import Course, Problem
from stageline_operator.decide.replicas import labels
from stageline_operator.objects.metadata import Body
from stageline_operator.objects.replica import replica_objects
from stageline_operator.objects.revision import CONTROLLER_REVISION, controller_revision
from stageline_operator.objects.shared import shared_objects
from stageline_operator.plan.plan import Plan


class Desired:
    """Collects what is wanted; ``applies`` and ``problems`` grow with it.

    Attributes:
        applies: in the order in which they were wanted.
        problems: names that belong to others, children that somebody changes back.
    """

    def __init__(self, plan: Plan, observed: Observed) -> None:
        self._plan = plan
        self._observed = observed
        self._children = {(child.kind, child.name): child for child in observed.children}
        self._strangers = {(stranger.kind, stranger.name): stranger for stranger in observed.strangers}
        self._wanted: set[tuple[str, str]] = set()
        self.applies: list[Action] = []
        self.problems: list[Problem] = []

    def want_shared(self) -> bool:
        """The objects that a resource has once. False: a name is taken, so no replica could work."""
        free = [self._want(body) for body in shared_objects(self._plan, self._observed.cluster)]
        return all(free)

    def want_replica(self, course: Course) -> None:
        """The objects of one replica."""
        if course.replica.plan is not None:
            bodies = replica_objects(self._plan, course.replica.plan, course.replica.number, course.gang)
            for body in bodies:
                self._want(body)

    def want_revisions(self, generation: int, used: Iterable[str]) -> None:
        """The ControllerRevisions of the spec and of all replicas, and of some more to roll back to."""
        found = {
            child.name: child
            for child in self._observed.children
            if (child.api_version, child.kind) == CONTROLLER_REVISION
        }
        for name in {self._plan.current.revision, *used}:
            revision = self._plan.revision(name)
            if revision is not None:
                body = controller_revision(revision, self._plan.owner, generation)
                child = found.pop(body["metadata"]["name"], None)
                if child is not None:
                    body["revision"] = child.body.get("revision", generation)
                self._want(body)
        newest = sorted(found.values(), key=lambda child: (-child.body.get("revision", 0), child.name))
        self._wanted |= {(child.kind, child.name) for child in newest[: self._plan.rollout.revision_history]}

    def wants(self, child: Child) -> bool:
        """An object with that name was wanted."""
        return (child.kind, child.name) in self._wanted

    def removals(self) -> list[Action]:
        """Children that nobody wants, but for those of replicas: these go when their replica's last pod has gone."""
        return [
            delete_child(child, "it is not wanted any more")
            for key, child in self._children.items()
            if key not in self._wanted and LABEL_REPLICA not in labels(child) and not child.deleting
        ]

    def unwanted_of(self, course: Course) -> list[Action]:
        """Objects of a replica that stays, that it should not have (any more)."""
        return [
            delete_child(child, "it is not wanted any more")
            for child in course.replica.children
            if (child.kind, child.name) not in self._wanted and not child.deleting and course.replica.plan is not None
        ]

    def free(self, actions: Iterable[Action]) -> list[Action]:
        """The actions whose objects' names are not taken by others."""
        return [
            action
            for action in actions
            if not isinstance(action, Create)
            or not self._is_taken(action.body["kind"], action.body["metadata"]["name"])
        ]

    def _want(self, body: Body) -> bool:
        kind, name = body["kind"], body["metadata"]["name"]
        self._wanted.add((kind, name))
        if self._is_taken(kind, name):
            return False
        child = self._children.get((kind, name))
        if child is None:
            self.applies.append(Apply(body, "it is missing", is_new=True))
        elif not child.deleting and (path := differs(body, child)):
            self._correct(body, child, path)
        return True

    def _correct(self, body: Body, child: Child, path: str) -> None:
        if Ref(child.api_version, child.kind, child.name) in self._observed.contested:
            message = (
                f"somebody changes {path} of {child.kind} {child.name} back each time it is applied; find out who"
                " (kubectl get --show-managed-fields), and stop it or change the spec"
            )
            self._tell(Problem(Reason.CHILD_CONTESTED, message))
        else:
            self.applies.append(Apply(body, f"{path} differs"))

    def _is_taken(self, kind: str, name: str) -> bool:
        stranger = self._strangers.get((kind, name))
        if stranger is None:
            return False
        whose = f" of {stranger.owner}" if stranger.owner else ""
        message = (
            f"{kind} {name}{whose} is not this resource's; delete or rename it, or give this resource another name"
        )
        self._tell(Problem(Reason.NAME_TAKEN, message))
        return True

    def _tell(self, problem: Problem) -> None:
        if problem not in self.problems:
            self.problems.append(problem)
