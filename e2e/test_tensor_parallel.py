"""A stage is cut once more, into tensor-parallel ranks of one pod."""

from __future__ import annotations

from tokenizers import Tokenizer

from support.tiny_models import parity_prompts, reference_greedy
from user import clients, resources, tiny
from user.kubectl import Kubectl

TOKENS = 24


def test_two_stages_of_two_ranks_give_the_tokens_of_the_whole_model(
    kubectl: Kubectl, stageline: None, namespace: str
) -> None:
    two_ranks = {"tensorParallel": 2, "resources": {"limits": {"cpu": 1}}}
    tiny.apply(kubectl, namespace, "tp", pipeline={"stageDefaults": two_ranks})
    settled = resources.wait_settled(kubectl, namespace, "tp")
    assert settled["status"]["plan"]["tensorParallel"] == "2"
    assert len(resources.pods(kubectl, namespace, "tp", "stage")) == 2

    prompts = parity_prompts(tiny.folder(), [5, 40], TOKENS)
    expected = reference_greedy(tiny.folder(), prompts, TOKENS)
    tokenizer = Tokenizer.from_file(str(tiny.folder() / "tokenizer.json"))
    with kubectl.port_forward(namespace, "service/tp", 8000) as address, clients.client(address) as client:
        answer = client.completions.create(
            model="tp", prompt=prompts, max_tokens=TOKENS, temperature=0, extra_body={"ignore_eos": True}
        )
    texts = [choice.text for choice in answer.choices]
    assert texts == [tokenizer.decode(tokens) for tokens in expected]
