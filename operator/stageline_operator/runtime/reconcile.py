"""One look at one resource: read it, plan, observe, decide, act. Knows no key but the one it is given."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

from stageline_operator.api.errors import GoneError, SpecError
from stageline_operator.api.status import InferenceDeploymentStatus
from stageline_operator.apply.context import Context
from stageline_operator.apply.events import Events
from stageline_operator.apply.run import run
from stageline_operator.decide.actions import Decision, WriteStatus
from stageline_operator.decide.invalid import decide_fault, decide_invalid, decide_invalid_deletion
from stageline_operator.decide.observed import PodSummary, Stray
from stageline_operator.decide.reconcile import decide
from stageline_operator.kube.client import Body, Kube
from stageline_operator.kube.kinds import POD, RESOURCE
from stageline_operator.objects.revision import content_of
from stageline_operator.observe.observed import Observer
from stageline_operator.observe.pods import controller
from stageline_operator.observe.store import Key
from stageline_operator.plan.build import build_plan
from stageline_operator.plan.spec import Owner, read_spec, read_status

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a look came to.

    Attributes:
        owner: None: there is no such resource any more.
        status: as it is now.
        wanted: replicas that the spec asks for; 0 when it cannot be read.
        again_after, poll: see Decision; a taken name is looked at again too.
        look_again: something was written or learned; another look will find out whether that was all.
        is_hindered: the API server refuses something that has to be tried again.
    """

    owner: Owner | None
    status: InferenceDeploymentStatus
    wanted: int
    again_after: float | None
    poll: bool
    look_again: bool
    is_hindered: bool = False


@dataclass(frozen=True, slots=True)
class Reconciler:
    """Everything that a look needs."""

    kube: Kube
    observer: Observer
    events: Events

    async def reconcile(self, key: Key) -> Outcome:
        """Look at a resource and do what is to be done.

        Raises:
            ApiError: something could not be done; look again after a back-off.
            LeaseLostError: this process may not write any more.
        """
        namespace, name = key
        try:
            body = await self.kube.get(RESOURCE, namespace, name)
        except GoneError:
            self._forget(key)
            return Outcome(None, InferenceDeploymentStatus(), 0, None, poll=False, look_again=False)
        meta = body["metadata"]
        owner = Owner(namespace, name, meta["uid"])
        self.observer.store.put(RESOURCE, body)
        last = read_status(body.get("status") or {})
        await self._find_pods(owner, last)
        try:
            decision, wanted = self._decide(body, owner, last)
        except Exception as error:  # a fault of ours: it is logged and counted where it is raised to
            told = decide_fault(error, last, meta["generation"], time.time())
            await run(told.actions, Context(self.kube, self.observer, owner, meta["resourceVersion"]), self.events)
            raise
        context = Context(self.kube, self.observer, owner, meta["resourceVersion"])
        for action in decision.actions:
            log.debug("%s/%s: %s", namespace, name, action)
        done = await run(decision.actions, context, self.events)
        return Outcome(
            owner=owner,
            status=next((each.status for each in decision.actions if isinstance(each, WriteStatus)), last),
            wanted=wanted,
            again_after=_earlier(decision.again_after, self.observer.learned.look_again_after(owner.uid)),
            poll=decision.poll,
            look_again=done.wrote or done.has_news,
            is_hindered=done.is_hindered,
        )

    def _decide(self, body: Body, owner: Owner, last: InferenceDeploymentStatus) -> tuple[Decision, int]:
        now = time.time()
        observed = self.observer.observed(owner)
        try:
            spec = read_spec(body)
            contents = (content_of(child.body) for child in observed.children)
            plan = build_plan(spec, dict(content for content in contents if content is not None))
        except SpecError as error:
            generation = body["metadata"]["generation"]
            if "deletionTimestamp" in body["metadata"]:
                return decide_invalid_deletion(last, observed, generation, now), 0
            return decide_invalid(error, last, generation, now), 0
        return decide(spec, plan, observed, now), spec.wanted.replicas

    async def _find_pods(self, owner: Owner, last: InferenceDeploymentStatus) -> None:
        """Read the pods that the status tells of and that are out of sight. Most are gone; one that has only lost the
        label by which it is watched still holds its GPU."""
        seen = {
            entry.content.name
            for entry in self.observer.store.of_owner(owner.uid)
            if isinstance(entry.content, PodSummary | Stray)
        }
        told = {slot.pod for replica in last.replica_list for slot in (replica.head, *replica.stages) if slot.pod}
        for name in sorted(told - seen):
            try:
                body = await self.kube.get(POD, owner.namespace, name)
            except GoneError:
                continue
            if controller(body["metadata"]).get("uid") == owner.uid:
                self.observer.store.put(POD, body)

    def _forget(self, key: Key) -> None:
        uid = self.observer.store.resources.get(key)
        if uid is not None:
            self.observer.store.drop(uid)
            self.observer.learned.forget(uid)


def _earlier(one: float | None, other: float | None) -> float | None:
    return min((each for each in (one, other) if each is not None), default=None)
