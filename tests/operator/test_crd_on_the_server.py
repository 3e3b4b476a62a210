"""kubectl on the real API server: columns, scale, explain, and statuses that the schema allows."""

from __future__ import annotations

import os
import subprocess
from typing import Any

import pytest

from support import specs
from support.kube.api import ApiError, KubeApi, Object
from support.kube.control_plane import ControlPlane

RESOURCE = "inferencedeployments.stageline.dev"

STATUS: Object = {
    "observedGeneration": 1,
    "phase": "Ready",
    "reason": "UpToDate",
    "replicas": 2,
    "readyReplicas": 2,
    "updatedReplicas": 2,
    "ready": "2/2",
    "selector": "stageline.dev/name=demo,stageline.dev/role=head",
    "currentRevision": "0123456789",
    "plan": {
        "revision": "0123456789",
        "stages": 2,
        "tensorParallel": "2,1",
        "model": "hf://org/name@main",
        "podsPerReplica": 3,
        "gang": "native",
    },
    "conditions": [
        {
            "type": "Available",
            "status": "True",
            "reason": "ReplicasReady",
            "lastTransitionTime": "2026-01-02T03:04:05Z",
            "observedGeneration": 1,
        }
    ],
}


@pytest.fixture(scope="module", autouse=True)
def _definition(control_plane: ControlPlane) -> None:
    specs.install_crd(control_plane.api)


@pytest.fixture
def demo(api: KubeApi, namespace: str) -> Object:
    """A resource with a status."""
    api.create(specs.resource({"spec.replicas": 2}, namespace))
    return api.patch(RESOURCE, "demo", {"status": STATUS}, namespace, subresource="status")


def kubectl(plane: ControlPlane, *arguments: str) -> str:
    return subprocess.run(
        [str(plane.kubectl), "--kubeconfig", str(plane.kubeconfig), *arguments],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "HOME": str(plane.folder)},  # its cache of discovery
    ).stdout


def table(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


def test_get_shows_what_a_person_wants(control_plane: ControlPlane, namespace: str, demo: Object) -> None:
    head, row = table(kubectl(control_plane, "get", "infdep", "-n", namespace))
    assert head == ["NAME", "READY", "STAGES", "TP", "MODEL", "PHASE", "AGE"]
    assert row[:6] == ["demo", "2/2", "2", "2,1", "hf://org/name@main", "Ready"]


def test_get_wide_adds_the_reason(control_plane: ControlPlane, namespace: str, demo: Object) -> None:
    head, row = table(kubectl(control_plane, "get", "infdep", "-n", namespace, "-o", "wide"))
    assert head[-1] == "REASON"
    assert row[-1] == "UpToDate"


def test_scale_changes_replicas_and_names_heads_alone(
    control_plane: ControlPlane, api: KubeApi, namespace: str, demo: Object
) -> None:
    kubectl(control_plane, "scale", "infdep/demo", "-n", namespace, "--replicas=5")
    scale = api.request("GET", api.path(RESOURCE, namespace, "demo", "scale"))
    assert scale["spec"]["replicas"] == 5
    assert scale["status"] == {"replicas": 2, "selector": "stageline.dev/name=demo,stageline.dev/role=head"}
    assert api.get(RESOURCE, "demo", namespace)["metadata"]["generation"] == 2


def test_a_status_that_the_schema_does_not_know_is_refused(api: KubeApi, namespace: str, demo: Object) -> None:
    with pytest.raises(ApiError) as refusal:
        api.patch(RESOURCE, "demo", {"status": {"phase": "Splendid"}}, namespace, subresource="status")
    assert 'status.phase: Unsupported value: "Splendid"' in refusal.value.message


def test_the_status_cannot_be_written_with_the_spec(api: KubeApi, namespace: str, demo: Object) -> None:
    api.patch(RESOURCE, "demo", {"status": {"ready": "9/9"}}, namespace)
    assert api.get(RESOURCE, "demo", namespace)["status"]["ready"] == "2/2"


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("infdep", "A language model served through a pipeline of stages"),
        ("infdep.spec", "Independent copies of the whole pipeline."),
        ("infdep.spec.pipeline.stageList.layers", "Layer after the last one."),
        ("infdep.spec.rollout.maxSurge", "Replicas that may exist beyond `spec.replicas` during a"),
        ("infdep.spec.podTemplate.hostNetwork", "Not allowed"),
        ("infdep.status.conditions", "Why, for a person"),
    ],
)
def test_explain_reads_well(control_plane: ControlPlane, path: str, says: str) -> None:
    assert says in kubectl(control_plane, "explain", path)


def test_apply_twice_changes_nothing(control_plane: ControlPlane, api: KubeApi, namespace: str) -> None:
    arguments = ("apply", "-n", namespace, "-f", str(specs.ROOT / "examples" / "unequal-stages.yaml"))
    kubectl(control_plane, *arguments)
    first: Any = api.get(RESOURCE, "unequal", namespace)["metadata"]["resourceVersion"]
    assert "unchanged" in kubectl(control_plane, *arguments)
    assert api.get(RESOURCE, "unequal", namespace)["metadata"]["resourceVersion"] == first


def test_the_definition_is_installed_over_itself_without_change(control_plane: ControlPlane, api: KubeApi) -> None:
    before = api.get("customresourcedefinitions.apiextensions.k8s.io", RESOURCE)["metadata"]["generation"]
    specs.install_crd(api)
    assert api.get("customresourcedefinitions.apiextensions.k8s.io", RESOURCE)["metadata"]["generation"] == before
