"""A ResourceQuota refuses a pod: that is told, all else is healed meanwhile, and a greater quota is enough."""

from __future__ import annotations

from typing import Any

from support.kube.api import Object
from support.running.scene import Scene, demo

QUOTA = "few-pods"


def limit_pods(scene: Scene, pods: int) -> None:
    meta = {"name": QUOTA, "namespace": scene.namespace}
    scene.api.apply({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": meta, "spec": {"hard": {"pods": pods}}})

    def is_counted() -> bool:
        status = scene.api.get("resourcequotas", QUOTA, scene.namespace).get("status", {})
        return bool(status.get("hard") == {"pods": str(pods)} and "pods" in status.get("used", {}))

    scene.wait(is_counted, f"the quota of {pods} pods to be in force")


def degraded(scene: Scene) -> dict[str, Any]:
    conditions: list[Object] = scene.resource().get("status", {}).get("conditions", [])
    return next((each for each in conditions if each["type"] == "Degraded"), {})


def test_a_quota_that_is_too_small_is_told_and_keeps_nothing_else_waiting(scene: Scene) -> None:
    limit_pods(scene, 2)
    operator = scene.run_operator()
    scene.apply(demo())
    told = scene.wait(
        lambda: (found := degraded(scene)).get("reason") == "ChildRefused" and found, "the refusal to be told"
    )
    assert "the API server refuses Pod demo-0-s1-0: " in told["message"]
    assert f"exceeded quota: {QUOTA}" in told["message"]
    before = scene.names("pods")
    assert before == {"demo-0-head-0", "demo-0-s0-0"}

    for kind, name in (("services", "demo"), ("poddisruptionbudgets", "demo-0"), ("networkpolicies", "demo-0")):
        scene.api.delete(kind, name, scene.namespace)
        scene.wait_back(kind, name)
    scene.api.delete("pods", "demo-0-s0-0", scene.namespace, grace=0)
    scene.wait(lambda: len(scene.names("pods") - {"demo-0-s0-0"}) == 2, "its place to be used")
    assert "demo-0-head-0" in scene.names("pods")
    assert degraded(scene)["reason"] == "ChildRefused"

    limit_pods(scene, 3)
    scene.wait_phase("Ready")
    assert len(scene.names("pods")) == 3
    assert degraded(scene)["status"] == "False"
    assert operator.exits == []
