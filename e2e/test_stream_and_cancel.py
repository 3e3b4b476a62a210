"""A client reads an answer as it is made, and another one leaves in the middle of it."""

from __future__ import annotations

import pytest

from support.kube.waiting import wait_until
from user import clients, resources, tiny
from user.kubectl import Kubectl
from user.metrics import scrape

LONG = 800


@pytest.fixture
def head(kubectl: Kubectl, stageline: None, namespace: str) -> str:
    """A head that serves, as kubectl names it."""
    tiny.apply(kubectl, namespace, "tiny", engine={"enablePrefixCaching": False})
    resources.wait_settled(kubectl, namespace, "tiny")
    [pod] = resources.pods(kubectl, namespace, "tiny", "head")
    return f"pod/{pod['metadata']['name']}"


@pytest.mark.core
def test_a_stream_comes_piece_by_piece_and_a_client_that_leaves_frees_its_place(
    kubectl: Kubectl, namespace: str, head: str
) -> None:
    with kubectl.port_forward(namespace, head, 8000) as address, clients.client(address) as client:
        made = _made(address)
        pieces = clients.stream(client, "tiny", tokens=LONG)
        next(pieces)
        assert _made(address) - made < LONG, "the first piece came when all was made"
        assert sum(1 for _ in pieces) > LONG / 10

        made = _made(address)
        leaves = clients.stream(client, "tiny", tokens=LONG)
        next(leaves)
        wait_until(lambda: scrape(address, "stageline_num_requests_running") == 1, "its place to be taken")
        assert scrape(address, "stageline_kv_cache_usage_ratio") > 0
        leaves.close()
        wait_until(lambda: scrape(address, "stageline_num_requests_running") == 0, "its place to be free")
        assert scrape(address, "stageline_kv_cache_usage_ratio") == 0
        assert scrape(address, "stageline_request_success_total", finished_reason="length") == 1
        assert _made(address) - made < LONG, "it was made to its end for nobody"


def _made(address: str) -> float:
    return scrape(address, "stageline_generation_tokens_total")
