"""What every fault leaves: the same pods, and an operator that goes on with its work."""

from __future__ import annotations

import time

from support.running.operator_process import OperatorProcess
from support.running.scene import Scene


def uids(scene: Scene) -> dict[str, str]:
    """Pods by name: equal ones are the same pods, untouched."""
    return {pod["metadata"]["name"]: pod["metadata"]["uid"] for pod in scene.pods()}


def goes_on(scene: Scene, operator: OperatorProcess, before: dict[str, str]) -> None:
    """The same pods are there, and what is asked for now is done."""
    operator.wait_leading()
    assert uids(scene) == before
    scene.change(replicas=2)
    scene.wait(lambda: scene.resource()["status"].get("ready") == "2/2", "the next change", patience=120)
    assert before.items() <= uids(scene).items()


def heals(scene: Scene, lost: str, successor: str) -> None:
    """A pod that goes is seen to be gone, and replaced."""
    scene.api.delete("pods", lost, scene.namespace, grace=0)
    scene.wait(lambda: successor in scene.names("pods"), f"{lost} to be replaced", patience=120)
    scene.wait_phase("Ready", patience=120)


def assert_gives_up_the_lease(operator: OperatorProcess) -> None:
    """What is asked of the API server meanwhile would fail: only the process is looked at."""
    operator.wait_exits(1)
    assert operator.exits[0] == 1
    assert "no renewal of lease" in operator.log.read_text()


def settled_writes(scene: Scene, seconds: float = 3.0) -> int:
    """Number of writes once none was added for so long."""
    count, since = len(scene.writes()), time.monotonic()
    while time.monotonic() - since < seconds:
        now = len(scene.writes())
        if now != count:
            count, since = now, time.monotonic()
        time.sleep(0.1)
    return count
