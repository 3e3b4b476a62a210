"""A sample of mutated resources, with a real operator at a real API server: it takes each to where it rests."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from stageline_operator.api.errors import SpecError
from stageline_operator.plan.build import build_plan
from stageline_operator.plan.spec import read_spec
from support.kube.api import Object
from support.kube.fake_node import NodeShape
from support.kube.fake_nodes import FakeNodes
from support.mutations import EXAMPLES, SCHEMA, for_each, mutated
from support.running.scene import Scene
from support.running.survival import settled_writes

OF_EACH = 8
"""Resources made of each example."""
MOST_PODS = 5
PATIENT_SECONDS = 600
"""A replica that finds no node is not given up while this test runs."""

RESTS = ("UpToDate", "ScaledToZero", "WaitingForScheduling", "GangUnavailable")
"""Reasons to do nothing more in a cluster that has neither room for all nor a gang scheduler."""
UNKNOWN = re.compile(
    'RuntimeClass "[^"]+" not found|no PriorityClass with name .+ was found|valid range|port is already allocated'
)
"""Why an object is refused: the person names what the cluster does not have."""
GPUS = {"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}


@pytest.fixture
def gpu_node(nodes: FakeNodes) -> Iterator[None]:
    nodes.add_node("node-of-mutations", NodeShape(gpus=64, taints=[GPUS]))
    yield
    nodes.remove_node("node-of-mutations")


def sample(example: Object) -> list[Any]:
    """Small specs that the operator accepts."""
    found: dict[str, Any] = {}

    def test(spec: Any) -> None:
        try:
            plan = build_plan(read_spec({**example, "spec": spec}), {})
        except SpecError:
            return
        if plan.current.pods_per_replica <= MOST_PODS and plan.restart.replica_deadline_seconds >= PATIENT_SECONDS:
            found[json.dumps(spec, sort_keys=True)] = {**spec, "replicas": min(plan.replicas, 1)}

    for_each(mutated(example["spec"], SCHEMA), 2 * OF_EACH, test, lambda: len(found))
    return list(found.values())[-OF_EACH:]


def rests(body: Object) -> bool:
    """It is as it is asked for, or waits for what only a person can bring; the status says so of this spec."""
    status = body.get("status", {})
    if status.get("observedGeneration") != body["metadata"]["generation"]:
        return False
    degraded = next(each for each in status["conditions"] if each["type"] == "Degraded")
    assert degraded["reason"] != "OperatorFault", degraded
    if degraded["reason"] == "ChildRefused":
        assert UNKNOWN.search(degraded["message"]), degraded
        return True
    return status["reason"] in RESTS


def rests_by_name(scene: Scene, name: str) -> bool:
    return rests(scene.resource(name))


def test_a_sample_of_mutated_examples_comes_to_rest(scene: Scene, gpu_node: None) -> None:
    named = {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": "serving"}, "value": 1}
    scene.api.apply(named)
    operator = scene.run_operator("--log-level=info")
    names: list[str] = []
    for example in EXAMPLES:
        for spec in sample(example):
            names.append(f"m-{len(names)}")
            scene.apply({**example, "metadata": {"name": names[-1]}, "spec": spec})
    for name in names:
        scene.wait(partial(rests_by_name, scene, name), f"{name} to rest")
    assert sum(scene.resource(name)["status"]["phase"] == "Ready" for name in names) >= len(names) / 3
    settled_writes(scene)
    assert operator.exits == []
