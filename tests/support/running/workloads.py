"""What a person does to a resource in the tests of crash points: each with the state before, and when it is done."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from support.running.scene import Scene, demo


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
    is_said = (
        status.get("observedGeneration") == body["metadata"]["generation"]
        and status.get("phase") == "Ready"
        and status.get("ready") == f"{replicas}/{replicas}"
    )
    return is_said and _is_true(scene, replicas, image, stages)


def _is_true(scene: Scene, replicas: int, image: str, stages: int) -> bool:
    pods = scene.pods()
    return (
        len(pods) == replicas * (1 + stages)
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
