"""From `helm install` and `kubectl apply` to a streamed answer through stages on two nodes."""

from __future__ import annotations

import openai
import pytest

from user.kubectl import Kubectl
from user.metrics import scrape
from user.resources import apply_example

READY = "jsonpath={.status.phase}=Ready"
READY_SECONDS = 540


@pytest.mark.timeout(900)
def test_the_cpu_example_answers_through_stages_on_two_nodes(kubectl: Kubectl, stageline: None, namespace: str) -> None:
    apply_example(kubectl, namespace, "cpu-demo.yaml")
    kubectl("wait", "-n", namespace, "infdep/demo", f"--for={READY}", f"--timeout={READY_SECONDS}s")

    stages = kubectl.list("pods", namespace, "stageline.dev/name=demo,stageline.dev/role=stage")
    assert len(stages) == 2
    assert len({pod["spec"]["nodeName"] for pod in stages}) == 2

    with kubectl.port_forward(namespace, "service/demo", 8000) as address:
        client = openai.OpenAI(base_url=f"http://{address}/v1", api_key="unused")
        chunks = client.chat.completions.create(
            model="smollm2",
            messages=[{"role": "user", "content": "What is the capital of France?"}],
            max_tokens=16,
            temperature=0,
            stream=True,
        )
        pieces = [chunk.choices[0].delta.content or "" for chunk in chunks]
        assert scrape(address, "stageline_boundary_bytes_total", stage="0") > 0
    assert "Paris" in "".join(pieces)
    assert len(pieces) > 3, "it came in one piece, so it was not streamed"
