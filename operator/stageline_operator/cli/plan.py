"""`stageline-operator plan`: what would change, step by step, and why."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from stageline_operator.api.errors import SpecError
from stageline_operator.cli.files import NOTHING, ClusterFlags, read_resources
from stageline_operator.cli.live import look
from stageline_operator.decide.actions import Action, Apply, Create, CreateGroupSecret, Delete, EmitEvent, ForceDelete
from stageline_operator.decide.observed import Observed
from stageline_operator.decide.predict import predict
from stageline_operator.objects.metadata import Body
from stageline_operator.plan.build import build_revision
from stageline_operator.plan.spec import Spec, check_change, read_spec, read_wanted

START = 0.0
"""Time of a prediction without a cluster; nothing in it depends on when it is."""


def plan_command(
    file: Path,
    /,
    *,
    since: Path | None = None,
    live: bool = False,
    kubeconfig: Path | None = None,
    namespace: str = "default",
    cluster: ClusterFlags = NOTHING,
) -> None:
    """Print what the operator would do for the resources in a file, step by step, and why. Each step begins when the
    one before has succeeded.

    Parameters
    ----------
    file
        YAML file with InferenceDeployments; - reads stdin.
    since
        File with the same resources as they run now. Without it they are new.
    live
        Look into the cluster for what runs now and for what it has, instead of believing flags. Nothing is written.
    kubeconfig
        File that says where the cluster is, for --live. Without it: $KUBECONFIG.
    namespace
        Namespace of resources that name none.
    cluster
        What the cluster has; by default nothing beyond Kubernetes itself.
    """
    if kubeconfig is not None and not live:
        raise SpecError("--kubeconfig", str(kubeconfig), "it has no effect without --live; add that, or leave it out")
    if live:
        if since is not None or cluster != NOTHING:
            raise SpecError("--live", ..., "it looks itself; leave out --since and what the cluster has")
        _plan_live(read_resources(file, namespace), kubeconfig)
        return
    before = {} if since is None else {_key(body): body for body in read_resources(since, namespace)}
    for body in read_resources(file, namespace):
        spec, observed = read_spec(body), Observed(cluster)
        old = before.get(_key(body))
        if old is not None:
            before_spec = read_spec(old)
            check_change(before_spec.wanted, spec.wanted)
            spec, observed = settled(spec, before_spec, observed)
        for line in plan_lines(spec, observed, old):
            print(line)


def _plan_live(bodies: list[Body], kubeconfig: Path | None) -> None:
    for body, (found, observed) in zip(bodies, asyncio.run(look(bodies, kubeconfig)), strict=True):
        generation = found["metadata"]["generation"] + 1 if found is not None else 1
        metadata = {**(found or body)["metadata"], "generation": generation}
        spec = read_spec({**(found or body), "metadata": metadata, "spec": body.get("spec")})
        if found is not None:
            check_change(read_wanted(found["spec"], with_rules=False), spec.wanted)
        for line in plan_lines(spec, observed, found, time.time()):
            print(line)


def settled(spec: Spec, old: Spec, observed: Observed) -> tuple[Spec, Observed]:
    """The resource and what is there when an older spec of it has been carried out in full."""
    for _, old, observed in predict(old, observed, START):  # noqa: B007, B020
        pass
    return replace(spec, generation=old.generation + 1, status=old.status), observed


def plan_lines(spec: Spec, observed: Observed, old: Body | None, now: float = START) -> Iterator[str]:
    """What would be done, as lines."""
    current = build_revision(spec.wanted).revision
    before = spec.status.current_revision
    title = f"{spec.owner.namespace}/{spec.owner.name}"
    if not before:
        yield f"{title}: new, revision {current}"
    elif before == current:
        yield f"{title}: revision {current} stays, so no pod is replaced"
    else:
        yield f"{title}: revision {before} → {current}, so every replica is to be replaced"
    if old is not None:
        yield from (f"  {line}" for line in _changes(read_wanted(old["spec"]).dump(), spec.wanted.dump(), "spec"))
    number = 0
    for decision, *_ in predict(spec, observed, now):
        lines = [line for action in decision.actions if (line := _line(action))]
        if lines:
            number += 1
            yield f"step {number}"
            yield from (f"  {line}" for line in lines)
    if not number:
        yield "nothing would change"


def _line(action: Action) -> str:
    """An action as a line; "" for the status, which is written whenever something changed."""
    if isinstance(action, Create):
        return f"+ {_named(action.body)}: {action.why}"
    if isinstance(action, Apply):
        return f"{'+' if action.is_new else '~'} {_named(action.body)}: {action.why}"
    if isinstance(action, CreateGroupSecret):
        return f"+ Secret with the group's keys: {action.why}"
    if isinstance(action, Delete | ForceDelete):
        return f"- {action.ref.kind} {action.ref.name}: {action.why}"
    return f"  {action.message}" if isinstance(action, EmitEvent) else ""


def _changes(old: Any, new: Any, path: str) -> Iterator[str]:
    """Leaves that differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted({*old, *new}):
            yield from _changes(old.get(key), new.get(key), f"{path}.{key}")
    elif old != new:
        yield f"{path}: {_text(old)} → {_text(new)}"


def _text(value: Any) -> str:
    return "(none)" if value in (None, [], {}) else json.dumps(value)


def _named(body: Body) -> str:
    return f"{body['kind']} {body['metadata']['name']}"


def _key(body: Body) -> tuple[str, str]:
    return body["metadata"]["namespace"], body["metadata"].get("name", "")
