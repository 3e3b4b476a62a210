"""A real API server refuses wrong resources with field and remedy, and accepts right ones."""

from __future__ import annotations

from typing import Any

import pytest

from support import specs
from support.kube.api import ApiError, KubeApi, Object

DRY = {"dryRun": "All", "fieldValidation": "Strict"}
"""As kubectl sends it: unknown fields are refused, not dropped. Nothing is stored."""


@pytest.fixture(scope="module", autouse=True)
def _definition(control_plane: Any) -> None:
    specs.install_crd(control_plane.api)


def create(api: KubeApi, body: Object) -> Object:
    path = api.path("inferencedeployments.stageline.dev", body["metadata"]["namespace"])
    return api.request("POST", path, params=DRY, body=body)


@pytest.mark.parametrize("case", specs.cases("refused"), ids=lambda case: case["case"])
def test_a_wrong_resource_is_refused_with_field_and_remedy(api: KubeApi, case: specs.Case) -> None:
    with pytest.raises(ApiError) as refusal:
        create(api, specs.resource_of(case))
    assert refusal.value.status in (400, 422)
    assert case["says"] in refusal.value.message
    assert "spec" in refusal.value.message or "metadata" in refusal.value.message


def test_the_largest_pipeline_is_within_the_servers_budget(api: KubeApi) -> None:
    """The cost of rules is estimated when the definition is installed, and counted once more for each resource."""
    name = "n" * 50
    stage: dict[str, Any] = {
        "tensorParallel": 2,
        "resources": {
            "requests": {f"example.com/{name}-{number}": 1 for number in range(16)},
            "limits": {"nvidia.com/gpu": 2, **{f"example.com/{name}-{number}": 1 for number in range(15)}},
        },
        "nodeSelector": {f"example.com/{name}-{number}": "v" * 63 for number in range(16)},
        "tolerations": [{"key": f"example.com/{name}-{number}", "operator": "Exists"} for number in range(16)],
        "env": [{"name": f"{name}_{number}", "value": "v" * 100} for number in range(32)],
        "volumes": [{"name": f"{name}-{number}", "emptyDir": {}} for number in range(16)],
        "volumeMounts": [{"name": f"{name}-15", "mountPath": f"/{name}/{number}"} for number in range(16)],
    }
    stage["resources"]["requests"].pop(f"example.com/{name}-15")
    stages = [{**stage, "layers": {"start": number, "end": number + 1}} for number in range(64)]
    create(api, specs.resource({"spec.model.layers": 64, "spec.pipeline": {"stageList": stages}}))


@pytest.mark.parametrize("case", specs.cases("accepted"), ids=lambda case: case["case"])
def test_a_right_resource_is_accepted(api: KubeApi, case: specs.Case) -> None:
    create(api, specs.resource_of(case))


@pytest.mark.parametrize(("file", "body"), specs.examples(), ids=lambda value: value if isinstance(value, str) else "")
def test_an_example_is_accepted(api: KubeApi, file: str, body: Object) -> None:
    resource = f"{body['kind'].lower()}s.{body['apiVersion'].partition('/')[0]}"
    api.request("POST", api.path(resource, "default"), params=DRY, body=body)


@pytest.mark.parametrize("case", specs.cases("immutable"), ids=lambda case: case["case"])
def test_an_immutable_field_stays(api: KubeApi, namespace: str, case: specs.Case) -> None:
    before = api.create(specs.resource(case["before"], namespace))
    after = specs.resource(case["after"], namespace)
    after["metadata"]["resourceVersion"] = before["metadata"]["resourceVersion"]
    path = api.path("inferencedeployments.stageline.dev", namespace, "demo")
    with pytest.raises(ApiError) as refusal:
        api.request("PUT", path, params=DRY, body=after)
    assert refusal.value.status == 422
    assert case["says"] in refusal.value.message


def test_what_is_not_immutable_can_change_together(api: KubeApi, namespace: str) -> None:
    before = api.create(specs.resource({"spec.scheduling.gang": "none"}, namespace))
    after = specs.resource(
        {
            "spec.scheduling.gang": "none",
            "spec.image": "stageline/engine:0.2.0",
            "spec.pipeline": {"stageList": [{"layers": {"start": 0, "end": 19}}, {"layers": {"start": 19, "end": 30}}]},
            "spec.replicas": 3,
            "spec.network.serviceType": "NodePort",
        },
        namespace,
    )
    after["metadata"]["resourceVersion"] = before["metadata"]["resourceVersion"]
    assert api.replace(after)["metadata"]["generation"] == 2


def test_defaults_are_filled_in_by_the_server(api: KubeApi) -> None:
    spec = create(api, specs.resource({}))["spec"]
    assert spec["replicas"] == 1
    assert spec["engine"]["maxNumSeqs"] == 64
    assert spec["scheduling"] == {"gang": "auto"}
    assert spec["restart"]["budget"]["outOfMemory"] == 3
    assert spec["pipeline"]["stageDefaults"] == {"tensorParallel": 1}


def test_a_partly_given_group_gets_the_other_defaults(api: KubeApi) -> None:
    spec = create(api, specs.resource({"spec.rollout.maxUnavailable": 1}))["spec"]
    assert spec["rollout"] == {"maxSurge": 1, "maxUnavailable": 1, "paused": False, "revisionHistory": 5}
