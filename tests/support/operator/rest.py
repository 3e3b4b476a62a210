"""Where a resource comes to in a simulated cluster that has room for it and everything that it may ask for."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

from stageline_operator.plan.cluster import Cluster
from stageline_operator.plan.spec import read_spec
from support.operator.simulation import Simulation

EVERYTHING = Cluster(native_gang="v1beta1", volcano=True, coscheduling=True, kueue=True, pod_monitor=True)
FEW = 2
"""Replicas that are simulated; more of them are the same again."""

Body = dict[str, Any]


def born(body: Body) -> Simulation:
    """A resource just created."""
    metadata = {**body["metadata"], "namespace": "ns", "uid": "owner-uid", "generation": 1, "resourceVersion": "1"}
    return _answering(Simulation({**copy.deepcopy(body), "metadata": metadata}, EVERYTHING))


def come_to_rest(simulation: Simulation) -> None:
    """Let it become what its spec asks for, and nothing be done from then on.

    Raises:
        AssertionError: it does not; or its status does not say so, or lacks a field of the spec.
    """
    if simulation.body["spec"].get("replicas", 1) > FEW:
        simulation.decide()
        simulation.change(replicas=FEW)
    simulation.settle()
    spec, status = simulation.body["spec"], simulation.body["status"]
    assert status["observedGeneration"] == simulation.body["metadata"]["generation"]
    assert (status["phase"], status["readyReplicas"]) == ("Ready", spec.get("replicas", 1)), status["reason"]
    assert list(_untold(spec, status)) == []
    simulation.now += 100_000
    assert simulation.decide().actions == (), "it goes on writing"


def change(simulation: Simulation, spec: Body) -> None:
    """A person replaces the spec."""
    simulation.body["spec"] = copy.deepcopy(spec)
    simulation.body["metadata"]["generation"] += 1
    simulation.is_dirty = True
    _answering(simulation)


def _answering(simulation: Simulation) -> Simulation:
    """Its heads do what they are told."""
    simulation.settings = {"max_num_seqs": read_spec(simulation.body).wanted.engine.max_num_seqs}
    return simulation


def _untold(spec: Body, status: Body) -> Iterator[str]:
    """Fields of a spec that ``status.effective`` does not have with the value that was given."""
    told = {each["field"]: each["value"] for each in status["effective"]}
    for field, value in _fields(spec, "spec"):
        found = told.get(field)
        if found is None and field.startswith("spec.pipeline.stageList["):
            continue  # too many: told of stage by stage
        if (field, value) == ("spec.scheduling.gang", "auto") or (found is not None and found.endswith("…")):
            continue  # what was found; a text that was cut
        if found is None or not (found == value or _has(json.loads(found), value)):
            yield f"{field}: {value!r}, told {found!r}"


def _fields(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Fields that were given, lists and maps of free keys as a whole, but for the list of stages."""
    if path == "spec.pipeline.stageList":
        for number, stage in enumerate(value):
            yield from _fields(stage, f"{path}[{number}]")
    elif isinstance(value, dict) and path.rpartition(".")[2] not in _FREE:
        for key, below in value.items():
            yield from _fields(below, f"{path}.{key}")
    elif value not in ({}, [], ""):
        yield path, value


_FREE = ("labels", "annotations", "nodeSelector", "requests", "limits", "matchLabels", "volumeAttributes")


def _has(told: Any, given: Any) -> bool:
    """Everything that was given is told; defaults may be there besides."""
    if isinstance(given, dict) and isinstance(told, dict):
        return all(value in ({}, [], "") or _has(told.get(key), value) for key, value in given.items())
    if isinstance(given, list) and isinstance(told, list):
        return len(given) == len(told) and all(map(_has, told, given))
    return bool(told == given and type(told) is type(given))
