"""A user changes what pods depend on, while people ask."""

from __future__ import annotations

import json

import pytest

from support.kube.waiting import wait_until
from user import clients, resources, tiny
from user.kubectl import Kubectl

SECONDS = 400


@pytest.mark.timeout(900)
def test_a_changed_image_and_limit_reach_all_replicas_without_a_lost_request(
    kubectl: Kubectl, stageline: None, namespace: str
) -> None:
    tiny.apply(kubectl, namespace, "tiny", network={"serviceType": "NodePort"})
    before = resources.wait_settled(kubectl, namespace, "tiny")["status"]["currentRevision"]
    old = set(resources.restarts(kubectl, namespace, "tiny"))
    with clients.Load(clients.address(kubectl, namespace, "tiny"), "tiny") as load:
        load.wait_answers(5)
        # The same image by its long name, as good as another one: it is the name that pods depend on.
        change = {"spec": {"image": f"docker.io/{tiny.IMAGE}", "engine": {"maxNumSeqs": 8}}}
        kubectl("patch", "infdep/tiny", "-n", namespace, "--type=merge", "-p", json.dumps(change))
        settled = resources.wait_settled(kubectl, namespace, "tiny", SECONDS)
        wait_until(
            lambda: old.isdisjoint(resources.restarts(kubectl, namespace, "tiny")), "the old pods to go", SECONDS, 0.5
        )
        load.wait_answers(5)
    assert load.failures == []
    assert len(set(load.answers)) == 1

    assert settled["status"]["currentRevision"] != before
    assert settled["status"]["updatedReplicas"] == 1
    in_force = {each["field"]: each["value"] for each in settled["status"]["effective"]}
    assert in_force["spec.engine.maxNumSeqs"] == "8"
    pods = resources.pods(kubectl, namespace, "tiny")
    assert {pod["spec"]["containers"][0]["image"] for pod in pods} == {f"docker.io/{tiny.IMAGE}"}
