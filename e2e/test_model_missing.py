"""A user names a model that is not there."""

from __future__ import annotations

import json

from support.kube.waiting import wait_until
from user import resources, tiny
from user.kubectl import Kubectl, Object

PLACE = "/models/nowhere"


def test_a_model_that_is_nowhere_is_named_in_the_status_and_not_tried_for_ever(
    kubectl: Kubectl, stageline: None, namespace: str
) -> None:
    tiny.apply(kubectl, namespace, "lost", model={"source": f"file://{PLACE}"})

    def failed() -> bool:
        return bool(_status(kubectl, namespace).get("phase") == "Failed")

    wait_until(failed, "the resource to be given up", 240, interval=0.5)
    status = _status(kubectl, namespace)
    assert status["reason"] == "RestartBudgetExhausted"
    failure = status["lastFailure"]
    assert failure["cause"] == "Configuration"
    assert failure["exitCode"] == 2
    assert PLACE in failure["logTail"]
    degraded = resources.condition(kubectl, namespace, "Degraded")
    assert degraded["status"] == "True"
    # What nobody tries again takes no room: its pods are gone, and nothing is written any more.
    wait_until(lambda: not resources.pods(kubectl, namespace, "lost"), "its pods to be gone", 120, interval=0.5)
    before = resources.get(kubectl, namespace, "lost")["metadata"]["resourceVersion"]
    tiny.apply(kubectl, namespace, "found")
    resources.wait_settled(kubectl, namespace, "found")
    assert resources.get(kubectl, namespace, "lost")["metadata"]["resourceVersion"] == before
    events = json.loads(kubectl("get", "events", "-n", namespace, "-o", "json"))["items"]
    exhausted = [each for each in events if each["reason"] == "RestartBudgetExhausted"]
    assert len(exhausted) == 1


def _status(kubectl: Kubectl, namespace: str) -> Object:
    status: Object = resources.get(kubectl, namespace, "lost").get("status", {})
    return status
