"""read_spec refuses what the API server refuses, in the same words, and accepts what it accepts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from stageline_operator.api.errors import SpecError
from stageline_operator.plan.build import build_plan
from stageline_operator.plan.spec import check_change, read_spec
from stageline_operator.schema.crd import custom_resource_definition
from support import specs
from support.kube.api import Object


def messages(node: Any) -> Iterator[str]:
    """Every message of every rule in a schema."""
    if isinstance(node, dict):
        yield from (rule["message"] for rule in node.get("x-kubernetes-validations", []))
        for inner in node.values():
            yield from messages(inner)
    elif isinstance(node, list):
        for inner in node:
            yield from messages(inner)


MESSAGES = set(messages(custom_resource_definition()))


@pytest.mark.parametrize("case", specs.cases("refused"), ids=lambda case: case["case"])
def test_a_wrong_resource_is_refused(case: specs.Case) -> None:
    with pytest.raises(SpecError) as refusal:
        read_spec(specs.resource_of(case))
    if any(message.startswith(case["says"]) for message in MESSAGES):
        assert case["says"] in str(refusal.value)


@pytest.mark.parametrize("case", specs.cases("immutable"), ids=lambda case: case["case"])
def test_a_change_that_the_server_refuses_is_refused(case: specs.Case) -> None:
    before, after = (read_spec(specs.resource(case[when])).wanted for when in ("before", "after"))
    with pytest.raises(SpecError) as refusal:
        check_change(before, after)
    # The server tells of all that is wrong, this of the first.
    changed = before.scheduling.gang != after.scheduling.gang and before.scheduling.queue_name is not None
    assert ("spec.scheduling.gang is immutable" if changed else case["says"]) in str(refusal.value)
    check_change(after, after)


@pytest.mark.parametrize("case", specs.cases("accepted"), ids=lambda case: case["case"])
def test_a_right_resource_becomes_a_plan(case: specs.Case) -> None:
    spec = read_spec(specs.resource_of(case))
    plan = build_plan(spec, {})
    assert plan.current.pods_per_replica == 1 + max(
        spec.wanted.pipeline.stages or 0, len(spec.wanted.pipeline.stage_list)
    )


@pytest.mark.parametrize(("file", "body"), specs.examples(), ids=lambda value: value if isinstance(value, str) else "")
def test_an_example_is_accepted(file: str, body: Object) -> None:
    if body["kind"] == "InferenceDeployment":
        assert read_spec(body).owner.name == body["metadata"]["name"]


def test_no_example_sets_the_replicas_that_an_autoscaler_beside_it_sets() -> None:
    """Each apply of the file would undo the autoscaler's work."""
    bodies = [body for _, body in specs.examples()]
    scaled = {body["spec"]["scaleTargetRef"]["name"] for body in bodies if body["kind"] == "HorizontalPodAutoscaler"}
    targets = [body for body in bodies if body["kind"] == "InferenceDeployment" and body["metadata"]["name"] in scaled]
    assert targets
    assert not [body["metadata"]["name"] for body in targets if "replicas" in body["spec"]]


def test_the_message_names_field_value_and_remedy() -> None:
    with pytest.raises(SpecError) as refusal:
        read_spec(specs.resource({"spec.engine.maxNumSeqs": 0}))
    assert str(refusal.value) == "spec.engine.maxNumSeqs=0: input should be greater than or equal to 1"


def test_an_entry_of_a_list_is_named_by_its_place() -> None:
    with pytest.raises(SpecError, match=r"^spec\.pipeline\.stageList\[1\]\.gpus: unknown field"):
        read_spec(specs.resource({"spec.pipeline": {"stageList": [{}, {"gpus": 1}]}}))


def test_every_rule_has_a_case_that_it_refuses() -> None:
    """A rule that no case needs could say anything."""
    said = [case["says"] for table in ("refused", "immutable") for case in specs.cases(table)]
    untried = [message for message in MESSAGES if not any(text in f": {message}" or message in text for text in said)]
    assert untried == []
