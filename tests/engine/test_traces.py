"""Traces of requests, as a collector gets them, and what becomes of requests when it does not."""

from __future__ import annotations

import socket
import sys
from typing import Any

import pytest

from stageline_engine.core.errors import ConfigurationError
from stageline_engine.server.settings import ServerSettings
from stageline_engine.server.tracing import open_tracer
from stageline_engine.text.tokenizer import Tokenizer
from support.api_server import COMPLETION, api_server
from support.scripted_engine import ScriptedEngine, tokens
from support.serving import serving
from support.tiny_models import tiny_model
from support.trace_collector import trace_collector, values

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
BODY: dict[str, Any] = {"model": "tiny", "prompt": "hello", "max_tokens": 5, "ignore_eos": True}
FLAGS = ("--stages", "2", "--threads", "1", "--served-model-name", "tiny", "--max-model-len", "256")


def test_a_request_is_a_trace_with_its_parts_and_what_each_stage_did_for_it() -> None:
    with (
        trace_collector() as collector,
        serving(tiny_model("llama"), *FLAGS, "--otlp-traces-endpoint", collector.url) as served,
    ):
        served.wait_ready()
        with served.client() as client:
            not_wanted = {"traceparent": f"00-{TRACE}-{PARENT}-00"}
            assert client.post("/v1/completions", json=BODY, headers=not_wanted).status_code == 200
            headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "X-Request-Id": "traced-one"}
            answer = client.post("/v1/completions", json={**BODY, "n": 2}, headers=headers).json()
        spans = collector.wait(7)
        resource = collector.resources[0]
    assert len(spans) == 7
    assert resource["service.name"] == "stageline"
    (root,) = [span for span in spans if span.name == "POST /v1/completions"]
    assert (root.trace_id.hex(), root.parent_span_id.hex()) == (TRACE, PARENT)
    about = values(root.attributes)
    assert about["stageline.request_id"] == "traced-one"
    assert about["gen_ai.response.id"] == answer["id"]
    assert about["http.response.status_code"] == 200
    assert about["gen_ai.usage.input_tokens"] == answer["usage"]["prompt_tokens"]
    assert about["gen_ai.usage.output_tokens"] == answer["usage"]["completion_tokens"] == 10
    assert about["gen_ai.response.finish_reasons"] == ["length", "length"]
    for choice in (0, 1):
        parts = {
            span.name: span
            for span in spans
            if span.parent_span_id == root.span_id and values(span.attributes)["stageline.choice"] == choice
        }
        queue, prefill, decode = parts["queue"], parts["prefill"], parts["decode"]
        assert root.start_time_unix_nano <= queue.start_time_unix_nano <= prefill.start_time_unix_nano
        assert prefill.start_time_unix_nano < decode.start_time_unix_nano <= decode.end_time_unix_nano
        assert decode.end_time_unix_nano <= root.end_time_unix_nano
        for span, least in ((prefill, 1), (decode, 4)):
            told = values(span.attributes)
            assert told["stageline.steps"] >= least, told  # type: ignore[operator]
            busy: Any = told["stageline.stage.busy_seconds"]
            assert len(busy) == 2
            assert all(seconds > 0 for seconds in busy)


async def test_a_collector_that_never_answers_holds_up_no_request_and_no_end(tokenizer: Tokenizer) -> None:
    engine = ScriptedEngine(lambda prompt, params: tokens([70, 71]))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/v1/traces"
        settings = ServerSettings(served_model_name="tiny", otlp_traces_endpoint=url)
        async with api_server(engine, tokenizer, settings) as api:
            for _ in range(20):
                assert (await api.http.post("/v1/completions", json=COMPLETION)).status_code == 200


@pytest.mark.parametrize("endpoint", ["collector:4318", "grpc://collector:4317", "http://"])
def test_an_endpoint_that_is_no_url_is_refused(endpoint: str) -> None:
    with pytest.raises(ConfigurationError, match="--otlp-traces-endpoint"):
        open_tracer(endpoint)


def test_the_optional_packages_are_asked_for_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    monkeypatch.delitem(sys.modules, "stageline_engine.server.otlp", raising=False)
    with pytest.raises(ConfigurationError, match=r"stageline\[tracing\]"):
        open_tracer("http://127.0.0.1:4318/v1/traces")
