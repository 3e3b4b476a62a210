"""No field of a resource is ignored: each changes an object of the operator, or a decision that a test shows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from stageline_operator.cli.render import render
from stageline_operator.plan.cluster import Cluster
from stageline_operator.schema.crd import custom_resource_definition
from support import specs

EVERYTHING = Cluster(native_gang="v1beta1", volcano=True, coscheduling=True, kueue=True, pod_monitor=True)

Changes = dict[str, Any]

POD_SETTINGS: Changes = {
    "nodeSelector": {"pool": "a"},
    "tolerations": [{"key": "a", "operator": "Exists"}],
    "affinity": {
        "nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "preference": {}}]}
    },
    "runtimeClassName": "nvidia",
    "env": [{"name": "A", "value": "b"}],
    "volumes": [{"name": "data", "emptyDir": {}}],
}
RESOURCES = {"requests": {"cpu": 1}, "limits": {"memory": "7Gi"}}


def settings_at(place: str, *, write: Any) -> Iterator[tuple[str, Changes, Changes]]:
    """A change of each setting of a pod at ``place``; ``write`` makes changes of a setting's value there."""
    for name, value in POD_SETTINGS.items():
        yield f"{place}.{name}", {}, write(name, value)
    volume = [{"name": "data", "emptyDir": {}}]
    yield (
        f"{place}.volumeMounts",
        {"spec.podTemplate.volumes": volume},
        {"spec.podTemplate.volumes": volume, **write("volumeMounts", [{"name": "data", "mountPath": "/data"}])},
    )


def at(place: str) -> Any:
    return lambda name, value: {f"{place}.{name}": value}


def in_first_stage(name: str, value: Any) -> Changes:
    return {"spec.pipeline": {"stageList": [{name: value}, {}]}}


HUB = {"spec.model.source": "hf://org/name"}
KUEUE = {"gang": "kueue", "queueName": "a"}
LIST: Changes = {"spec.pipeline": {"stageList": [{}, {}]}}
CPUS: Changes = {"spec.pipeline.stageDefaults": {"resources": {"limits": {"cpu": 2}}}}

EFFECTS: list[tuple[str, Changes, Changes]] = [
    ("spec.model.source", {}, HUB),
    ("spec.model.revision", HUB, {**HUB, "spec.model.revision": "v1"}),
    ("spec.model.servedName", {}, {"spec.model.servedName": "chat"}),
    ("spec.model.credentials", HUB, {**HUB, "spec.model.credentials": {"name": "hub", "key": "token"}}),
    ("spec.model.cache.claimName", {}, {"spec.model.cache.claimName": "models"}),
    ("spec.model.cache.sizeLimit", {}, {"spec.model.cache.sizeLimit": "5Gi"}),
    ("spec.image", {}, {"spec.image": "another"}),
    ("spec.imagePullPolicy", {}, {"spec.imagePullPolicy": "Always"}),
    ("spec.replicas", {}, {"spec.replicas": 2}),
    ("spec.pipeline.stages", {}, {"spec.pipeline.stages": 3}),
    ("spec.pipeline.layerSplit", {}, {"spec.pipeline.layerSplit": [19, 11]}),
    (
        "spec.pipeline.stageDefaults.tensorParallel",
        CPUS,
        {"spec.pipeline.stageDefaults": {"tensorParallel": 2, "resources": {"limits": {"cpu": 2}}}},
    ),
    ("spec.pipeline.stageDefaults.resources", {}, {"spec.pipeline.stageDefaults.resources": RESOURCES}),
    *settings_at("spec.pipeline.stageDefaults", write=at("spec.pipeline.stageDefaults")),
    (
        "spec.pipeline.stageList[].tensorParallel",
        {"spec.pipeline": {"stageList": [{"resources": {"limits": {"cpu": 2}}}]}},
        {"spec.pipeline": {"stageList": [{"tensorParallel": 2, "resources": {"limits": {"cpu": 2}}}]}},
    ),
    (
        "spec.pipeline.stageList[].layers",
        {"spec.pipeline": {"stageList": [{}]}},
        {"spec.pipeline": {"stageList": [{"layers": {"start": 0, "end": 3}}]}},
    ),
    ("spec.pipeline.stageList[].resources", LIST, in_first_stage("resources", RESOURCES)),
    *settings_at("spec.pipeline.stageList[]", write=in_first_stage),
    ("spec.head.resources", {}, {"spec.head.resources": RESOURCES}),
    *settings_at("spec.head", write=at("spec.head")),
    *settings_at("spec.podTemplate", write=at("spec.podTemplate")),
    ("spec.podTemplate.labels", {}, {"spec.podTemplate.labels": {"a": "b"}}),
    ("spec.podTemplate.annotations", {}, {"spec.podTemplate.annotations": {"a": "b"}}),
    ("spec.podTemplate.imagePullSecrets", {}, {"spec.podTemplate.imagePullSecrets": [{"name": "a"}]}),
    *(
        (f"spec.podTemplate.security.{name}", {}, {f"spec.podTemplate.security.{name}": value})
        for name, value in {
            "runAsUser": 7,
            "runAsGroup": 7,
            "fsGroup": 7,
            "supplementalGroups": [7],
            "seLinuxOptions": {"level": "s0"},
        }.items()
    ),
    *(
        (f"spec.engine.{name}", {}, {f"spec.engine.{name}": value})
        for name, value in {
            "dtype": "bfloat16",
            "device": "cpu",
            "threads": 3,
            "maxModelLen": 99,
            "maxNumSeqs": 9,
            "maxNumBatchedTokens": 99,
            "microBatches": 3,
            "maxWaiting": 3,
            "blockSize": 32,
            "kvMemory": "3Gi",
            "enablePrefixCaching": False,
            "seed": 3,
            "allowUnverifiedArchitecture": True,
            "startTimeout": 333,
            "hangTimeout": 33,
            "drainTimeout": 33,
            "logLevel": "debug",
        }.items()
    ),
    ("spec.restart.nodeLostSeconds", {}, {"spec.restart.nodeLostSeconds": 33}),
    ("spec.scheduling.gang", {}, {"spec.scheduling.gang": "volcano"}),
    ("spec.scheduling.queueName", {"spec.scheduling": KUEUE}, {"spec.scheduling": {**KUEUE, "queueName": "b"}}),
    ("spec.scheduling.topologyKey", {}, {"spec.scheduling.topologyKey": "example.com/rack"}),
    ("spec.scheduling.priorityClassName", {}, {"spec.scheduling.priorityClassName": "high"}),
    ("spec.scheduling.schedulerName", {}, {"spec.scheduling.schedulerName": "mine"}),
    ("spec.network.serviceType", {}, {"spec.network.serviceType": "NodePort"}),
    ("spec.network.serviceName", {}, {"spec.network.serviceName": "chat"}),
    ("spec.network.port", {}, {"spec.network.port": 80}),
    (
        "spec.network.nodePort",
        {"spec.network.serviceType": "NodePort"},
        {"spec.network.serviceType": "NodePort", "spec.network.nodePort": 30080},
    ),
    ("spec.network.annotations", {}, {"spec.network.annotations": {"a": "b"}}),
    ("spec.network.networkPolicy", {}, {"spec.network.networkPolicy": False}),
    ("spec.network.apiKeys", {}, {"spec.network.apiKeys": {"name": "keys", "key": "keys"}}),
    ("spec.monitoring.podMonitor", {}, {"spec.monitoring.podMonitor": "none"}),
    ("spec.monitoring.intervalSeconds", {}, {"spec.monitoring.intervalSeconds": 30}),
    ("spec.monitoring.labels", {}, {"spec.monitoring.labels": {"a": "b"}}),
    ("spec.monitoring.metricsCompat", {}, {"spec.monitoring.metricsCompat": "vllm"}),
    (
        "spec.monitoring.otlpTracesEndpoint",
        {},
        {"spec.monitoring.otlpTracesEndpoint": "http://collector.monitoring:4318/v1/traces"},
    ),
]

DECISIONS = {
    "spec.model.layers": "specs/refused.yaml",
    "spec.rollout.maxSurge": "test_decide_rollout.py",
    "spec.rollout.maxUnavailable": "test_decide_rollout.py",
    "spec.rollout.paused": "test_decide_rollout.py",
    "spec.rollout.revisionHistory": "test_decide_rollout.py",
    "spec.restart.budget": "test_decide_budgets.py",
    "spec.restart.backoffSeconds": "test_decide_budgets.py",
    "spec.restart.maxBackoffSeconds": "test_decide_budgets.py",
    "spec.restart.resetSeconds": "test_decide_budgets.py",
    "spec.restart.replicaDeadlineSeconds": "test_decide_deadlines.py",
    "spec.restart.recoveryDeadlineSeconds": "test_decide_deadlines.py",
}
"""Fields that change no object but what is decided about them (or refused), and the tests that show how."""

GROUPS = {"model", "model.cache", "pipeline", "pipeline.stageDefaults", "pipeline.stageList[]", "head", "podTemplate",
          "podTemplate.security", "engine", "rollout", "restart", "scheduling", "network", "monitoring"}  # fmt: skip
"""Parts of a spec whose fields are listed one by one; a deeper one has an effect as a whole."""


def rendered(changes: Changes) -> str:
    """All objects, without what says only that something has changed: revision, its hash, its content."""
    objects = [body for body in render(specs.resource(changes), EVERYTHING) if body["kind"] != "ControllerRevision"]
    text = yaml.safe_dump_all(objects)
    return re.sub(r"stageline.dev/revision: '?\w+'?", "", text)


@pytest.mark.parametrize(
    ("field", "before", "after"), EFFECTS, ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_field_changes_the_objects(field: str, before: Changes, after: Changes) -> None:
    assert rendered(before) != rendered(after)


@pytest.mark.parametrize(("field", "file"), DECISIONS.items())
def test_a_field_that_changes_no_object_has_tests_of_its_own(field: str, file: str) -> None:
    name = field.rpartition(".")[2]
    assert name in (Path(__file__).parent / file).read_text()


def test_every_field_is_in_one_of_the_lists() -> None:
    (version,) = custom_resource_definition()["spec"]["versions"]
    spec = version["schema"]["openAPIV3Schema"]["properties"]["spec"]
    assert set(fields(spec)) == {
        field.removeprefix("spec.") for field in {effect[0] for effect in EFFECTS} | {*DECISIONS}
    }


def fields(schema: Changes, path: str = "") -> Iterator[str]:
    """Paths of the fields that somebody can set, groups opened and everything else as a whole."""
    for name, inner in schema["properties"].items():
        here = f"{path}{name}" + ("[]" if f"{path}{name}[]" in GROUPS else "")
        if any(rule["rule"] == "false" for rule in inner.get("x-kubernetes-validations", ())):
            continue
        if here in GROUPS:
            yield from fields(inner.get("items", inner), f"{here}.")
        else:
            yield here
