"""Two resources side by side, one named as if it were a part of the other: nobody gets the other one's traffic."""

from __future__ import annotations

import openai
import pytest

from user import clients, resources, tiny
from user.kubectl import Kubectl, Object
from user.metrics import scrape

FAMILIES = {"tiny": "llama", "tiny-0": "olmo2"}
TOKENS = 20


@pytest.mark.timeout(600)
def test_two_resources_answer_each_for_itself(kubectl: Kubectl, stageline: None, namespace: str) -> None:
    for name, family in FAMILIES.items():
        tiny.apply(kubectl, namespace, name, family=family)
    for name in FAMILIES:
        resources.wait_settled(kubectl, namespace, name)
    answers = [_answer(kubectl, namespace, name) for name in FAMILIES]
    assert answers[0] != answers[1]
    for name in FAMILIES:
        _check_addresses(kubectl, namespace, name)
        _check_policies(kubectl, namespace, name)


def _answer(kubectl: Kubectl, namespace: str, name: str) -> str:
    """What the resource answers under its name; it knows no other, and counts its own requests alone."""
    [other] = FAMILIES.keys() - {name}
    with kubectl.port_forward(namespace, f"service/{name}", 8000) as address, clients.client(address) as client:
        assert [model.id for model in client.models.list()] == [name]
        made = scrape(address, "stageline_generation_tokens_total")
        text = "".join(chunk.choices[0].text for chunk in clients.stream(client, name, TOKENS))
        with pytest.raises(openai.NotFoundError, match=other):
            clients.stream(client, other, TOKENS)
        assert scrape(address, "stageline_generation_tokens_total", model_name=name) == made + TOKENS
    return text


def _check_addresses(kubectl: Kubectl, namespace: str, name: str) -> None:
    """Its Services lead to its own pods: clients to heads, stages to any."""
    for service, role in ((name, "head"), (f"{name}-peers", "head,stage")):
        slices = kubectl.list("endpointslices", namespace, f"kubernetes.io/service-name={service}")
        led_to = {address for each in slices for end in each["endpoints"] for address in end["addresses"]}
        assert led_to == {pod["status"]["podIP"] for pod in resources.pods(kubectl, namespace, name, role)}, service


def _check_policies(kubectl: Kubectl, namespace: str, name: str) -> None:
    """Its NetworkPolicies are for its own pods, let those reach each other, and everybody the API port alone."""
    own = _names(resources.pods(kubectl, namespace, name))
    for policy in kubectl.list("networkpolicies", namespace, f"stageline.dev/name={name}"):
        spec = policy["spec"]
        assert spec["policyTypes"] == ["Ingress"]
        assert _names(_selected(kubectl, namespace, spec["podSelector"])) == own
        peers, clients, operator = spec["ingress"]
        assert _names(_selected(kubectl, namespace, peers["from"][0]["podSelector"])) == own
        assert "ports" not in peers
        assert "from" not in clients
        assert [port["port"] for port in clients["ports"]] == [8000]
        assert [port["port"] for port in operator["ports"]] == [8080]
        assert _selected(kubectl, namespace, operator["from"][0]["podSelector"]) == []


def _selected(kubectl: Kubectl, namespace: str, selector: Object) -> list[Object]:
    labels = ",".join(f"{key}={value}" for key, value in selector["matchLabels"].items())
    return kubectl.list("pods", namespace, labels)


def _names(pods: list[Object]) -> set[str]:
    return {pod["metadata"]["name"] for pod in pods}
