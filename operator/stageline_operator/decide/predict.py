"""What decisions lead to when all goes well: each pod becomes ready, each drained pod ends. For ``plan FILE``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from stageline_operator.api import constants as c
from stageline_operator.decide.actions import (
    Action,
    Apply,
    Create,
    CreateGroupSecret,
    Decision,
    Delete,
    ForceDelete,
    WriteStatus,
)
from stageline_operator.decide.observed import Child, ContainerSummary, Observed, PodSummary
from stageline_operator.decide.reconcile import decide
from stageline_operator.objects.metadata import Body
from stageline_operator.objects.revision import content_of
from stageline_operator.plan.build import build_plan
from stageline_operator.plan.spec import Spec

MOST_STEPS = 5_000
"""Decisions that a prediction makes: far more than a roll-out of the largest resource has."""


def predict(spec: Spec, observed: Observed, now: float) -> Iterator[tuple[Decision, Spec, Observed]]:
    """The decisions that follow each other until nothing is left to do, each with what is there after it."""
    for _ in range(MOST_STEPS):
        contents = (content_of(child.body) for child in observed.children)
        plan = build_plan(spec, dict(content for content in contents if content is not None))
        decision = decide(spec, plan, observed, now)
        if not decision.actions:
            return
        spec, observed = _done(spec, observed, decision.actions, now)
        yield decision, spec, observed
        if decision.again_after is not None and all(isinstance(action, WriteStatus) for action in decision.actions):
            now += decision.again_after


def _done(spec: Spec, observed: Observed, actions: tuple[Action, ...], now: float) -> tuple[Spec, Observed]:
    pods = {pod.name: pod for pod in observed.pods if pod.gone_at is None}
    children = {(child.kind, child.name): child for child in observed.children}
    has_secret = observed.secret_exists
    for action in actions:
        if isinstance(action, Create):
            pods[action.body["metadata"]["name"]] = _ready_pod(action.body, now)
        elif isinstance(action, Apply):
            child = _child(action.body)
            children[child.kind, child.name] = child
        elif isinstance(action, Delete | ForceDelete):
            pods.pop(action.ref.name, None) if action.ref.kind == "Pod" else children.pop(
                (action.ref.kind, action.ref.name), None
            )
        elif isinstance(action, CreateGroupSecret):
            has_secret = True
        elif isinstance(action, WriteStatus):
            spec = replace(spec, status=action.status)
    after = replace(observed, pods=tuple(pods.values()), children=tuple(children.values()), secret_exists=has_secret)
    return spec, after


def _ready_pod(body: Body, now: float) -> PodSummary:
    metadata = body["metadata"]
    labels = metadata["labels"]
    engine = ContainerSummary(c.CONTAINER_ENGINE, True, True, 0, "", "", None, None)
    return PodSummary(
        name=metadata["name"],
        uid=metadata["name"],
        resource_version="",
        owner_uid="",
        replica=int(labels[c.LABEL_REPLICA]),
        stage=int(labels[c.LABEL_STAGE]) if c.LABEL_STAGE in labels else None,
        incarnation=int(labels[c.LABEL_INCARNATION]),
        revision=labels[c.LABEL_REVISION],
        epoch=int(labels[c.LABEL_EPOCH]),
        created_at=now,
        phase="Running",
        phase_reason="",
        phase_message="",
        ready=True,
        ready_changed_at=now,
        scheduled_at=now,
        unschedulable="",
        node="",
        address="",
        gone_at=None,
        grace=None,
        disruption="",
        containers=(engine,),
    )


def _child(body: Body) -> Child:
    return Child(
        api_version=body["apiVersion"],
        kind=body["kind"],
        name=body["metadata"]["name"],
        uid="",
        resource_version="",
        owner_uid="",
        deleting=False,
        body=body,
        ours=frozenset(_paths(body)),
    )


def _paths(value: object) -> Iterator[tuple[str, ...]]:
    """Paths that an apply owns, lists as a whole; without what tells which object it is."""
    is_object = isinstance(value, dict) and "kind" in value
    if not isinstance(value, dict) or not value:
        yield ()
        return
    for key, below in value.items():
        if is_object and key in ("apiVersion", "kind"):
            continue
        for path in _paths(below):
            yield (key, *path)
