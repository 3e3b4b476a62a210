"""A user makes a mistake in a resource."""

from __future__ import annotations

import pytest

from support.kube.waiting import wait_until
from user.kubectl import Kubectl, KubectlError, Object
from user.resources import apply_example, condition

pytestmark = pytest.mark.core


def test_a_value_that_cannot_be_is_refused_at_once_with_its_field(
    kubectl: Kubectl, stageline: None, namespace: str
) -> None:
    with pytest.raises(KubectlError, match=r"spec\.pipeline\.stages"):
        apply_example(kubectl, namespace, "cpu-demo.yaml", pipeline={"stages": 0})
    assert kubectl.list("infdep", namespace) == []


def test_an_image_that_is_nowhere_is_named_in_the_status(kubectl: Kubectl, stageline: None, namespace: str) -> None:
    apply_example(kubectl, namespace, "cpu-demo.yaml", image="stageline/engine:nowhere")

    def named() -> Object | None:
        told = condition(kubectl, namespace, "Degraded")
        return told if told.get("reason") == "PodCannotStart" else None

    told = wait_until(named, "the status to tell of the image", patience=120, interval=0.5)
    assert told is not None
    assert told["status"] == "True"
    assert "the image stageline/engine:nowhere cannot be pulled" in told["message"]
