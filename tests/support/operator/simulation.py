"""A small cluster in memory for the operator's pure core: it does actions, and pods become ready, fail and get lost.

Nothing here is asynchronous and nothing waits: ``now`` is a number that a test moves. The core is run as the runtime
runs it: on a change of something, or when a decision said to look again; never just so. A crash is a decision of which
only the first actions are done.
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, field, replace
from typing import Any

from stageline_operator.api.state import HeadState, StageState
from stageline_operator.decide.actions import (
    Action,
    Apply,
    Create,
    CreateGroupSecret,
    Decision,
    Delete,
    EmitEvent,
    ForceDelete,
    WriteStatus,
)
from stageline_operator.decide.observed import Child, HeadAnswer, Observed, PodSummary, Stranger, Stray
from stageline_operator.decide.reconcile import decide
from stageline_operator.decide.times import to_text
from stageline_operator.objects.revision import content_of
from stageline_operator.plan.build import build_plan
from stageline_operator.plan.cluster import Cluster
from stageline_operator.plan.plan import Plan
from stageline_operator.plan.spec import read_spec
from support.operator import pods as pod_states
from support.operator.invariants import check
from support.operator.server_objects import applied

START = 1_700_000_000.0


@dataclass
class Simulation:
    """One resource and everything that it has.

    Attributes:
        body: the resource, as the API server has it.
        fits: how many pods find a node; the others wait.
        stopped_nodes: nodes whose kubelet does not answer: pods on it change no more.
        settings: of the engine, as heads report them.
        writes: every action done, Events apart, in order.
    """

    body: dict[str, Any]
    cluster: Cluster = field(default_factory=Cluster)
    now: float = START
    fits: int = 10_000
    pods: dict[str, PodSummary] = field(default_factory=dict)
    bodies: dict[str, dict[str, Any]] = field(default_factory=dict)
    children: dict[tuple[str, str], Child] = field(default_factory=dict)
    strays: dict[str, Stray] = field(default_factory=dict)
    strangers: tuple[Stranger, ...] = ()
    has_secret: bool = False
    stopped_nodes: set[str] = field(default_factory=set)
    answers: bool = True
    settings: dict[str, Any] = field(default_factory=lambda: {"max_num_seqs": 64})
    writes: list[Action] = field(default_factory=list)
    events: list[EmitEvent] = field(default_factory=list)
    again_at: float | None = None
    is_dirty: bool = True
    _count: int = 0
    _plan: tuple[Any, Plan] | None = None

    # -- the operator ------------------------------------------------------------------------------------------------

    def decide(self) -> Decision:
        """What the core says now; nothing is done."""
        spec, plan = read_spec(self.body), self.plan()
        decision = decide(spec, plan, self.observed(), self.now)
        check(decision, spec, plan.current.revision, self.pods.values())
        return decision

    def plan(self) -> Plan:
        """What the resource asks for."""
        contents = [content_of(child.body) for child in self.children.values() if child.kind == "ControllerRevision"]
        known = tuple(content for content in contents if content is not None)
        key = (json.dumps(self.body["spec"]), self.body["metadata"]["generation"], known)
        if self._plan is None or self._plan[0] != key:
            self._plan = key, build_plan(read_spec(self.body), dict(known))
        return self._plan[1]

    def reconcile(self, crash_after: int | None = None) -> Decision:
        """One reconcile; with ``crash_after``, only so many of its actions are done, and a new process follows."""
        self.is_dirty, self.again_at = False, None
        decision = self.decide()
        actions = decision.actions if crash_after is None else decision.actions[:crash_after]
        for action in actions:
            self.do(action)
        if crash_after is not None and crash_after < len(decision.actions):
            self.is_dirty = True  # the next process begins with everything
        elif decision.again_after is not None:
            self.again_at = self.now + decision.again_after
        return decision

    def settle(self, rounds: int = 400) -> None:
        """Let cluster and operator run until nothing happens any more.

        Raises:
            AssertionError: it does not come to rest.
        """
        for _ in range(rounds):
            if not self.step():
                return
        last = "\n".join(map(shown, self.writes[-6:]))
        raise AssertionError(f"no rest after {rounds} rounds; the last writes were\n{last}")

    @property
    def is_due(self) -> bool:
        """Something changed, or the operator wanted to look again by now."""
        return self.is_dirty or (self.again_at is not None and self.again_at <= self.now)

    def step(self) -> bool:
        """What comes next: a reconcile when one is due, else the cluster, else time until the operator wants to look
        again. False: nothing will happen any more."""
        if self.is_due:
            self.reconcile()
        elif not self.advance():
            if self.again_at is None:
                return False
            self.now = max(self.now, self.again_at)
        return True

    def observed(self) -> Observed:
        heads = {}
        for pod in self.pods.values():
            if self.answers and pod.is_head and pod.gone_at is None and self._is_running(pod):
                heads[pod.replica] = HeadAnswer(pod.replica, pod.uid, self.now, self._state_of(pod), "")
        return Observed(
            cluster=self.cluster,
            pods=tuple(self.pods.values()),
            strays=tuple(self.strays.values()),
            children=tuple(self.children.values()),
            strangers=self.strangers,
            heads=heads,
            secret_exists=self.has_secret,
        )

    # -- the API server ----------------------------------------------------------------------------------------------

    def do(self, action: Action) -> None:
        if isinstance(action, EmitEvent):
            self.events.append(action)
            return
        self.writes.append(action)
        if isinstance(action, CreateGroupSecret):
            self.is_dirty = self.is_dirty or not self.has_secret
            self.has_secret = True
            return
        self.is_dirty = True
        if isinstance(action, Create):
            name = action.body["metadata"]["name"]
            assert name not in self.pods, f"{name} exists already"
            assert self.has_secret, f"{name} was created before the group Secret"
            self.pods[name] = pod_states.summary(action.body, self._id("uid"), self._id("v"), self.now)
            self.bodies[name] = action.body
        elif isinstance(action, Apply):
            key = (action.body["kind"], action.body["metadata"]["name"])
            assert key not in {(each.kind, each.name) for each in self.strangers}, f"{key} is taken over"
            before = self.children.get(key)
            self.children[key] = applied(before, action.body, self._id("uid"), self._id("v"), to_text(self.now))
        elif isinstance(action, Delete):
            self._delete(action)
        elif isinstance(action, ForceDelete):
            going = self.strays.pop(action.ref.name, None) or self.pods.pop(action.ref.name)
            assert going.uid == action.uid
        else:
            assert isinstance(action, WriteStatus)
            self.body["status"] = action.status.dump()

    def _delete(self, action: Delete) -> None:
        if action.ref.kind != "Pod":
            child = self.children.pop((action.ref.kind, action.ref.name))
            assert (child.uid, child.resource_version) == (action.uid, action.resource_version)
            return
        if action.ref.name in self.strays:
            self._delete_stray(self.strays[action.ref.name], action)
            return
        pod = self.pods[action.ref.name]
        assert (pod.uid, pod.resource_version) == (action.uid, action.resource_version)
        self.delete_pod(pod.name)

    def _delete_stray(self, stray: Stray, action: Delete) -> None:
        assert (stray.uid, stray.resource_version) == (action.uid, action.resource_version)
        grace = self.bodies[stray.name]["spec"]["terminationGracePeriodSeconds"]
        self.strays[stray.name] = replace(
            stray, gone_at=float(int(self.now)) + grace, grace=grace, resource_version=self._id("v")
        )
        self.is_dirty = True

    def change_labels(self, name: str) -> None:
        """Somebody changes a pod's labels, so that they do not tell any more which one it is."""
        pod = self.pods.pop(name)
        self.strays[name] = Stray(name, pod.uid, self._id("v"), pod.node, pod.gone_at, pod.grace)
        self.is_dirty = True

    def delete_pod(self, name: str, disruption: str = "") -> None:
        """Graceful deletion, by whomever; a pod without a node goes at once."""
        pod = self.pods[name]
        if pod.scheduled_at is None:
            del self.pods[name]
        elif pod.gone_at is None:
            self.set_pod(
                pod_states.deleted(
                    pod, self.bodies[name]["spec"]["terminationGracePeriodSeconds"], self.now, disruption
                )
            )
        self.is_dirty = True

    def set_pod(self, pod: PodSummary) -> None:
        """A new version of a pod."""
        self.pods[pod.name] = replace(pod, resource_version=self._id("v"))
        self.is_dirty = True

    def change(self, **spec: Any) -> None:
        """A person changes fields of the spec."""
        if {**self.body["spec"], **spec} != self.body["spec"]:
            self.body["spec"] = {**self.body["spec"], **copy.deepcopy(spec)}
            self.body["metadata"]["generation"] += 1
            self.is_dirty = True

    # -- everybody else ----------------------------------------------------------------------------------------------

    def advance(self) -> bool:
        """Scheduler and kubelets do one step for each pod. False: they have nothing to do."""
        before, children = dict(self.pods), len(self.children)
        for pod in before.values():
            self._advance_pod(pod)
        going = [stray for stray in self.strays.values() if stray.gone_at and stray.node not in self.stopped_nodes]
        for stray in going:
            del self.strays[stray.name]
        self.is_dirty = self.is_dirty or bool(going)
        if "deletionTimestamp" in self.body["metadata"]:
            self._collect_garbage()
        if before == self.pods and not going and children == len(self.children):
            return False
        self.now += 1
        return True

    def _collect_garbage(self) -> None:
        self.is_dirty = self.is_dirty or bool(self.children)
        self.children.clear()
        for name in list(self.pods):
            self.delete_pod(name)

    def _advance_pod(self, pod: PodSummary) -> None:
        if pod.scheduled_at is None:
            if sum(each.scheduled_at is not None for each in self.pods.values()) < self.fits:
                self.set_pod(pod_states.placed(pod, self._id("node"), self.now))
        elif pod.node in self.stopped_nodes:
            return
        elif pod.gone_at is not None:
            del self.pods[pod.name]
            self.is_dirty = True
        elif pod.has_ended:
            return
        elif not self._is_running(pod):
            words = {container.waiting for container in pod.containers}
            if "ErrImagePull" not in words and (self.has_secret or "CreateContainerConfigError" not in words):
                self.set_pod(pod_states.running(pod))
        elif not pod.is_head and not pod.ready:
            self.set_pod(pod_states.made_ready(pod, True, self.now))
        elif pod.is_head and pod.ready != self._has_all_stages(pod):
            self.set_pod(pod_states.made_ready(pod, not pod.ready, self.now))

    def _has_all_stages(self, head: PodSummary) -> bool:
        """Its stages are there, ready, and of its own revision."""
        mates = [
            pod for pod in self.pods.values() if pod.replica == head.replica and not pod.is_head and pod.gone_at is None
        ]
        ready = {pod.stage for pod in mates if pod.ready and pod.revision == head.revision}
        plan = self.plan().revision(head.revision)
        return plan is not None and ready == set(range(len(plan.stages)))

    def _is_running(self, pod: PodSummary) -> bool:
        return any(container.running for container in pod.containers)

    def _state_of(self, head: PodSummary) -> HeadState:
        mates = [pod for pod in self.pods.values() if pod.replica == head.replica and not pod.is_head]
        return HeadState(
            epoch=1 + sum(pod.incarnation for pod in mates),
            ready=head.ready,
            draining=head.gone_at is not None,
            stages=tuple(
                StageState(stage=pod.stage or 0, pod=pod.name, state="member", tensor_parallel=1) for pod in mates
            ),
            settings=self.settings,
        )

    def _id(self, kind: str) -> str:
        self._count += 1
        return f"{kind}-{self._count}"


def shown(action: Action) -> str:
    """An action in a line."""
    if isinstance(action, WriteStatus):
        status = action.status
        replicas = [f"{each.replica} {each.phase} {each.next_restart or ''}".strip() for each in status.replica_list]
        return f"WriteStatus {status.phase} {status.reason} {replicas}"
    if isinstance(action, Create | Apply):
        return f"{type(action).__name__} {action.body['kind']} {action.body['metadata']['name']}: {action.why}"
    if isinstance(action, Delete | ForceDelete):
        return f"{type(action).__name__} {action.ref.kind} {action.ref.name}: {action.why}"
    if isinstance(action, EmitEvent):
        return f"EmitEvent {action.type} {action.reason}: {action.message}"
    return f"{type(action).__name__}: {action.why}"


def resource(name: str = "demo", **spec: Any) -> dict[str, Any]:
    """A resource just created: two stages, one replica."""
    return {
        "apiVersion": "stageline.dev/v1alpha1",
        "kind": "InferenceDeployment",
        "metadata": {"name": name, "namespace": "ns", "uid": "owner-uid", "generation": 1, "resourceVersion": "1"},
        "spec": {
            "model": {"source": "hf://org/model"},
            "image": "example/stageline:1",
            "pipeline": {"stages": 2},
            **copy.deepcopy(spec),
        },
    }


def settled(**spec: Any) -> Simulation:
    """A resource whose replicas are all ready."""
    simulation = Simulation(resource(**spec))
    simulation.settle()
    return simulation
