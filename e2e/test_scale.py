"""A user scales up and down while people ask."""

from __future__ import annotations

import pytest

from support.kube.waiting import wait_until
from user import clients, resources, tiny
from user.kubectl import Kubectl
from user.metrics import scrape

SECONDS = 300


@pytest.mark.timeout(900)
def test_scaling_from_one_to_two_and_back_loses_no_request(kubectl: Kubectl, stageline: None, namespace: str) -> None:
    tiny.apply(kubectl, namespace, "tiny", network={"serviceType": "NodePort"})
    resources.wait_settled(kubectl, namespace, "tiny")
    address = clients.address(kubectl, namespace, "tiny")
    with clients.Load(address, "tiny") as load:
        load.wait_answers(5)
        _scale(kubectl, namespace, 2)
        [first, second] = [head["metadata"]["name"] for head in resources.pods(kubectl, namespace, "tiny", "head")]
        for head in (first, second):
            with kubectl.port_forward(namespace, f"pod/{head}", 8000) as one:
                wait_until(lambda at=one: _served(at) > 0, f"{head} to have answered", SECONDS)  # type: ignore[misc]
        _scale(kubectl, namespace, 1)
        wait_until(
            lambda: len(resources.pods(kubectl, namespace, "tiny")) == 3, "the rest to go", SECONDS, interval=0.5
        )
        load.wait_answers(5)
    assert load.failures == []
    assert len(set(load.answers)) == 1


def _scale(kubectl: Kubectl, namespace: str, replicas: int) -> None:
    kubectl("scale", "infdep/tiny", "-n", namespace, f"--replicas={replicas}")
    resources.wait_settled(kubectl, namespace, "tiny", SECONDS)


def _served(address: str) -> float:
    return scrape(address, "stageline_generation_tokens_total")
