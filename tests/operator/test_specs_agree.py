"""Rules are written twice, in CEL and in Python: here both judge resources that nobody would write."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from stageline_operator.api.errors import SpecError
from stageline_operator.plan.build import build_plan
from stageline_operator.plan.spec import read_spec
from stageline_operator.schema.crd import custom_resource_definition
from support import specs
from support.kube.api import ApiError, KubeApi, Object
from support.mutations import from_schema, mutated

RESOURCES = 60
"""For each example, and as many from the schema alone."""

(VERSION,) = custom_resource_definition()["spec"]["versions"]
SCHEMA = VERSION["schema"]["openAPIV3Schema"]["properties"]["spec"]
EXAMPLES = [body for _, body in specs.examples() if body["kind"] == "InferenceDeployment"]


@pytest.fixture(scope="module", autouse=True)
def _definition(control_plane: Any) -> None:
    specs.install_crd(control_plane.api)


def told_by_server(api: KubeApi, body: Object) -> str:
    """The server's refusal; "" when it accepts."""
    path = api.path("inferencedeployments.stageline.dev", "default")
    try:
        api.request("POST", path, params={"dryRun": "All", "fieldValidation": "Strict"}, body=body)
    except ApiError as error:
        assert error.status in (400, 422), error
        return error.message
    return ""


def told_by_operator(body: Object) -> str:
    """The operator's refusal; "" when it makes a plan of it."""
    try:
        build_plan(read_spec(body), {})
    except SpecError as error:
        return str(error)
    return ""


def disagreements(api: KubeApi, bodies: list[Object]) -> list[tuple[Object, str, str]]:
    judged = [(body, told_by_server(api, body), told_by_operator(body)) for body in bodies]
    assert any(server == "" for _, server, _ in judged) or len(bodies) < 20, "nothing was accepted: no test of rules"
    return [(body["spec"], server, operator) for body, server, operator in judged if bool(server) != bool(operator)]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda body: body["metadata"]["name"])
def test_server_and_operator_agree_on_mutated_examples(api: KubeApi, example: Object) -> None:
    bodies = []
    for seed in range(RESOURCES):
        spec = mutated(example["spec"], SCHEMA, Random(seed))
        bodies.append({**example, "metadata": {**example["metadata"], "namespace": "default"}, "spec": spec})
    assert disagreements(api, bodies) == []


@pytest.mark.parametrize("part", sorted(SCHEMA["properties"]))
def test_server_and_operator_agree_on_parts_made_from_the_schema(api: KubeApi, part: str) -> None:
    bodies = []
    for seed in range(RESOURCES):
        body = specs.resource({})
        body["spec"][part] = from_schema(SCHEMA["properties"][part], Random(seed))
        bodies.append(body)
    assert disagreements(api, bodies) == []
