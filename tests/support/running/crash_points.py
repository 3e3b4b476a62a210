"""Workloads that are run once undisturbed, and once for each of the operator's writes with a crash at it."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from support.kube.api import Object
from support.running.faulty_proxy import Call, FaultyProxy, Forward, reset
from support.running.operator_process import OperatorProcess
from support.running.scene import CHILD_KINDS, MANAGED, Scene, demo

CONVERGE_SECONDS = 30.0
QUIET_SECONDS = 5.0
_MADE_BY_SERVER = (
    "uid",
    "resourceVersion",
    "creationTimestamp",
    "generation",
    "managedFields",
    "ownerReferences",
    "namespace",
    "generateName",
)


@dataclass(frozen=True)
class Workload:
    """``prepare`` brings the namespace into the state before; ``act`` is what a person does then; ``is_done`` says when
    the operator has answered.
    """

    name: str
    prepare: Callable[[Scene], None]
    act: Callable[[Scene], object]
    is_done: Callable[[Scene], bool]


def is_ready(scene: Scene, replicas: int, image: str = "", stages: int = 2) -> bool:
    """The status says so, and the pods are those and no others."""
    body = scene.resource()
    status = body.get("status", {})
    pods = scene.pods()
    return (
        status.get("observedGeneration") == body["metadata"]["generation"]
        and status.get("phase") == "Ready"
        and status.get("ready") == f"{replicas}/{replicas}"
        and len(pods) == replicas * (1 + stages)
        and all(image in pod["spec"]["containers"][0]["image"] for pod in pods)
        and not any("deletionTimestamp" in pod["metadata"] for pod in pods)
        and len(scene.names("poddisruptionbudgets")) == replicas
    )


def _with(replicas: int) -> Callable[[Scene], None]:
    def prepare(scene: Scene) -> None:
        scene.apply(demo(replicas=replicas))
        scene.wait(lambda: is_ready(scene, replicas), "the state before")

    return prepare


def _is_gone(scene: Scene) -> bool:
    return scene.api.find("inferencedeployments", "demo", scene.namespace) is None and not any(
        scene.children().values()
    )


WORKLOADS = {
    each.name: each
    for each in (
        Workload("create", lambda scene: None, lambda scene: scene.apply(demo()), lambda scene: is_ready(scene, 1)),
        Workload("scale-up", _with(1), lambda scene: scene.change(replicas=2), lambda scene: is_ready(scene, 2)),
        Workload("scale-down", _with(2), lambda scene: scene.change(replicas=1), lambda scene: is_ready(scene, 1)),
        Workload(
            "rolling-update",
            _with(1),
            lambda scene: scene.change(image="stageline/engine:0.2.0"),
            lambda scene: is_ready(scene, 1, image="0.2.0"),
        ),
        Workload(
            "stage-change",
            _with(1),
            lambda scene: scene.change(pipeline={"stages": 3}),
            lambda scene: is_ready(scene, 1, stages=3),
        ),
        Workload("delete", _with(1), lambda scene: scene.delete(), _is_gone),
    )
}


class Crash:
    """Crashes an operator at its k-th write, once."""

    def __init__(self, proxy: FaultyProxy, operator: OperatorProcess, k: int, *, after: bool) -> None:
        self._operator = operator
        self._after = after
        self._left = k
        self._lock = threading.Lock()
        self.has_happened = False
        proxy.add(lambda call: call.is_write, self._fault)

    async def _fault(self, call: Call, forward: Forward) -> web.StreamResponse:
        with self._lock:
            self._left -= 1
            is_it = self._left == 0
        if not is_it:
            return await forward()
        if self._after:
            await forward()
        self.has_happened = True
        self._operator.crash()
        return await reset(call, forward)


def run_undisturbed(scene: Scene, workload: Workload) -> tuple[int, Any]:
    """Returns the number of writes, and the objects in the end."""
    proxy = scene.proxy()
    scene.run_operator(proxy=proxy)
    workload.prepare(scene)
    wait_quiet(scene, proxy)
    before = len(proxy.writes())
    workload.act(scene)
    scene.wait(lambda: workload.is_done(scene), f"{workload.name} to be done")
    wait_quiet(scene, proxy)
    return len(proxy.writes()) - before, objects(scene)


def run_with_crash(scene: Scene, workload: Workload, k: int, *, after: bool) -> Any:
    """The same with a crash; returns the objects in the end. Fails when the operator does not find its way, or writes
    on when it has.
    """
    proxy = scene.proxy()
    operator = scene.run_operator(proxy=proxy)
    workload.prepare(scene)
    wait_quiet(scene, proxy)
    crash = Crash(proxy, operator, k, after=after)
    workload.act(scene)
    # The last writes are of the status, and two of them may be one in this run: then there is no such point.
    scene.wait(lambda: crash.has_happened or workload.is_done(scene), "the crash")
    scene.wait(lambda: workload.is_done(scene), f"{workload.name} to be done after the crash", CONVERGE_SECONDS * 2)
    wait_quiet(scene, proxy)
    result = objects(scene)
    writes = len(proxy.writes())
    for count in range(2):
        resync(scene, count)
        hold_quiet(scene, proxy, writes)
    return result


def wait_quiet(scene: Scene, proxy: FaultyProxy, seconds: float = 1.5) -> None:
    """Until nothing was written for so long."""
    last, since = len(proxy.writes()), time.monotonic()

    def is_quiet() -> bool:
        nonlocal last, since
        if len(proxy.writes()) != last:
            last, since = len(proxy.writes()), time.monotonic()
        return time.monotonic() - since >= seconds

    scene.wait(is_quiet, "no more writes")


def hold_quiet(scene: Scene, proxy: FaultyProxy, writes: int) -> None:
    """Nothing more is written for QUIET_SECONDS / 2."""
    end = time.monotonic() + QUIET_SECONDS / 2
    while time.monotonic() < end:
        late = proxy.writes()[writes:]
        assert not late, [(call.method, call.path, call.body[:2000]) for call in late]
        time.sleep(0.1)


def resync(scene: Scene, count: int) -> None:
    """A change of the resource that asks for nothing: the operator looks at it again."""
    if scene.api.find("inferencedeployments", "demo", scene.namespace) is not None:
        label = {"metadata": {"labels": {"example.com/resync": str(count)}}}
        scene.api.patch("inferencedeployments", "demo", label, scene.namespace)


def objects(scene: Scene) -> Any:
    """All children and the status, without what differs between two runs of the same."""
    resource = scene.api.find("inferencedeployments", "demo", scene.namespace)
    uid = resource["metadata"]["uid"] if resource is not None else "no uid"
    found = {
        f"{kind}/{each['metadata']['name']}".replace(uid, "UID"): _stripped(
            each, {scene.namespace: "NAMESPACE", uid: "UID"}
        )
        for kind in CHILD_KINDS
        for each in scene.api.list(kind, scene.namespace, MANAGED)
    }
    return found | ({"status": _status(resource)} if resource is not None else {})


def _stripped(body: Object, names: dict[str, str]) -> Any:
    kept = {key: value for key, value in body.items() if key not in ("status", "data", "apiVersion", "kind")}
    meta = {key: value for key, value in body["metadata"].items() if key not in _MADE_BY_SERVER}
    text = json.dumps({**kept, "metadata": meta}, sort_keys=True)
    if "nodeName" in kept.get("spec", {}):
        names = {**names, kept["spec"]["nodeName"]: "NODE"}
    for name, stands_for in names.items():
        text = text.replace(name, stands_for)
    text = re.sub(r'"clusterIPs?": (\[[^]]*\]|"[^"]*")', '"clusterIP": "IP"', text)
    return json.loads(text)


def _status(resource: Object) -> Any:
    """Conditions, phase and replicas; not when, and not how often it was tried."""
    status = resource["status"]
    return {
        "phase": status["phase"],
        "ready": status["ready"],
        "revision": status["currentRevision"],
        "conditions": sorted((each["type"], each["status"], each["reason"]) for each in status["conditions"]),
        "pods": sorted(
            [replica["head"]["pod"], *(stage["pod"] for stage in replica.get("stages", ()))]
            for replica in status.get("replicaList", ())
        ),
    }
