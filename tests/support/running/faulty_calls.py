"""What makes the operator send each kind of call, one after the other, and faults that meet the first of these."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from support.running.crash_points import kind_of
from support.running.faulty_proxy import Call, Fault, Match, Rule
from support.running.scene import Scene, demo
from support.running.survival import uids

UNTOUCHED = ("demo-0-head-0", "demo-0-s0-0")
"""Pods that no step gives a reason to touch."""
_OBJECT = re.compile(r"^/apis?/.*/namespaces/[^/]+/[^/]+/[^/]+(/status)?$")


@dataclass(frozen=True)
class Step:
    """A change in the cluster that is answered by calls of one kind.

    Attributes:
        call: as ``crash_points.kind_of``; a GET is that of one object.
        act: what happens.
        is_done: the operator has answered it.
    """

    call: str
    act: Callable[[Scene], object]
    is_done: Callable[[Scene], object]


def _comes_back(call: str, kind: str, name: Callable[[Scene], str]) -> Step:
    """Somebody deletes an object that the operator makes."""
    return Step(
        call,
        lambda scene: scene.api.delete(kind, name(scene), scene.namespace),
        lambda scene: name(scene) in scene.names(kind),
    )


def _named(name: str) -> Callable[[Scene], str]:
    return lambda scene: name


def _is_told(scene: Scene, field: str, value: str) -> bool:
    told: list[dict[str, Any]] = scene.resource()["status"]["effective"]
    return {"field": field, "value": value, "source": "operator"} in told


def _last_stage(scene: Scene) -> str:
    """The newest incarnation of the stage that the steps replace."""
    pods = [name for name in scene.names("pods") if name.startswith("demo-0-s1-")]
    return max(pods, key=lambda name: int(name.rpartition("-")[2]))


class _Replaced:
    """A pod goes, by whomever, and has a successor in the end; nothing else is left of it."""

    def __init__(self, go: Callable[[Scene, str], object]) -> None:
        self._go = go
        self._old = ""

    def act(self, scene: Scene) -> None:
        self._old = _last_stage(scene)
        self._go(scene, self._old)

    def is_done(self, scene: Scene) -> bool:
        """The status tells of the successor, too: else the next step would come before this one is over."""
        before, _, number = self._old.rpartition("-")
        new = f"{before}-{int(number) + 1}"
        (replica,) = scene.resource()["status"]["replicaList"]
        is_told = any(stage.get("pod") == new and stage.get("ready") for stage in replica["stages"])
        found = {pod["metadata"]["name"] for pod in scene.api.list("pods", scene.namespace)}
        return is_told and found == {*UNTOUCHED, new}


def _replaced(call: str, go: Callable[[Scene, str], object]) -> Step:
    replaced = _Replaced(go)
    return Step(call, replaced.act, replaced.is_done)


def _delete_pod(scene: Scene, name: str) -> None:
    scene.api.delete("pods", name, scene.namespace, grace=0)


def _change_label(scene: Scene, name: str) -> None:
    """So that the pod is no replica's any more, and the operator deletes it."""
    label = {"metadata": {"labels": {"stageline.dev/incarnation": "1000000000000"}}}
    scene.api.patch("pods", name, label, scene.namespace)


def steps() -> tuple[Step, ...]:
    """All of them, in their order; for one namespace."""
    return (
        _comes_back("PATCH services", "services", _named("demo")),
        _comes_back("GET services", "services", _named("demo")),
        _comes_back("GET inferencedeployments", "services", _named("demo-peers")),
        _comes_back("PATCH serviceaccounts", "serviceaccounts", _named("demo-pods")),
        _comes_back("PATCH poddisruptionbudgets", "poddisruptionbudgets", _named("demo-0")),
        _comes_back("PATCH networkpolicies", "networkpolicies", _named("demo-0")),
        _comes_back(
            "PATCH controllerrevisions",
            "controllerrevisions.apps",
            lambda scene: f"demo-{scene.resource()['status']['currentRevision']}",
        ),
        Step(
            "PATCH inferencedeployments/status",
            lambda scene: scene.change(rollout={"revisionHistory": 7}),
            lambda scene: _is_told(scene, "spec.rollout.revisionHistory", "7"),
        ),
        Step(
            "DELETE networkpolicies",
            lambda scene: scene.change(network={"networkPolicy": False}),
            lambda scene: not scene.names("networkpolicies"),
        ),
        _replaced("POST pods", _delete_pod),
        _replaced("POST events", _delete_pod),
        _replaced("DELETE pods", _change_label),
        _replaced("GET pods", _change_label),
        Step(
            "POST secrets",
            lambda scene: scene.apply(demo("other")),
            lambda scene: scene.resource("other").get("status", {}).get("phase") == "Ready",
        ),
    )


CALLS = tuple(step.call for step in steps())


def survive(scene: Scene, faults: Mapping[str, Sequence[Fault]]) -> None:
    """Do all steps of which ``faults`` has the call, and let the first of these calls meet its faults in turn.

    Raises:
        AssertionError: after one of them the operator has ended, something is not as it should be, or a pod was touched
            that had nothing to do with it.
    """
    proxy = scene.proxy()
    operator = scene.run_operator(proxy=proxy)
    scene.apply(demo(restart={"backoffSeconds": 1, "maxBackoffSeconds": 1}))
    scene.wait_phase("Ready")
    before = {name: uid for name, uid in uids(scene).items() if name in UNTOUCHED}
    assert len(before) == len(UNTOUCHED)
    for step in steps():
        if step.call not in faults:
            continue
        # The latest rule comes first.
        rules = [proxy.add(is_call(step.call), fault, times=1) for fault in reversed(faults[step.call])]
        step.act(scene)
        scene.wait(partial(_has_met, rules[-1]), f"{step.call} to meet its fault")
        scene.wait(partial(step.is_done, scene), f"the answer after {step.call} was met", patience=90)
        for rule in rules:
            proxy.remove(rule)
        assert before.items() <= uids(scene).items(), f"a pod was touched after {step.call}"
        assert operator.exits == [], f"{step.call}:\n{operator.log_tail()}"
    scene.wait_phase("Ready")


def _has_met(rule: Rule) -> bool:
    return rule.count > 0


def is_call(kind: str) -> Match:
    """See ``Step.call``."""

    def match(call: Call) -> bool:
        if call.is_watch or not kind.startswith(f"{call.method} ") or "/namespaces/" not in call.path:
            return False
        return kind_of(call) == kind and (call.method != "GET" or _OBJECT.match(call.path) is not None)

    return match
