"""Metrics as a scraper sees them: names, kinds and labels as documented, values those of the engine and of requests."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncGenerator
from pathlib import Path

import openai
import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from stageline_engine.core.errors import OverloadedError
from stageline_engine.server import metric_names as names
from stageline_engine.server.settings import ServerSettings
from stageline_engine.text.tokenizer import Tokenizer
from support.api_server import Api, api_server
from support.scripted_engine import ScriptedEngine, tokens

DOCS = Path(__file__).parents[2] / "docs" / "metrics.md"


@pytest.fixture
def engine() -> ScriptedEngine:
    return ScriptedEngine(
        lambda prompt, params: [
            output for choice in range(params.n) for output in tokens([70, 71, 72], choice=choice, finish="length")
        ]
    )


@pytest.fixture
async def api(engine: ScriptedEngine, tokenizer: Tokenizer) -> AsyncGenerator[Api, None]:
    settings = ServerSettings(served_model_name="tiny", metrics_compat="vllm")
    async with api_server(engine, tokenizer, settings) as running:
        yield running


async def scrape(api: Api) -> dict[str, Metric]:
    """Families by name, as a client's parser reads them."""
    answer = await api.http.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    return {family.name: family for family in text_string_to_metric_families(answer.text)}


def value(families: dict[str, Metric], name: str, **labels: str) -> float:
    """The one sample with these labels."""
    wanted = {"model_name": "tiny", **labels}
    [found] = [
        sample.value
        for family in families.values()
        for sample in family.samples
        if sample.name == name and sample.labels == wanted
    ]
    return found


def test_the_page_is_made_from_the_code() -> None:
    maker = DOCS.parent / "make_metrics.py"
    made = subprocess.run([sys.executable, maker], capture_output=True, text=True, check=True).stdout
    assert DOCS.read_text() == made, "run make generate"


async def test_a_scrape_has_what_is_documented_and_nothing_else(api: Api) -> None:
    await api.http.post("/v1/completions", json={"prompt": "hello"})
    families = await scrape(api)
    expected = {}
    for metric in names.ALL:
        expected[metric.full_name.removesuffix("_total")] = metric
        if metric.vllm is not None:
            expected[names.VLLM_PREFIX + metric.vllm.removesuffix("_total")] = metric
    assert set(families) == set(expected)
    for name, metric in expected.items():
        family = families[name]
        assert family.type == metric.kind
        assert family.documentation == metric.help
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == {names.MODEL_NAME, *metric.labels}, sample


async def test_vllm_names_are_only_there_when_asked_for_and_have_the_same_values(
    api: Api, engine: ScriptedEngine, tokenizer: Tokenizer
) -> None:
    await api.http.post("/v1/completions", json={"prompt": "hello"})
    families = await scrape(api)
    for metric in names.ALL:
        if metric.vllm is None:
            continue
        own = families[metric.full_name.removesuffix("_total")]
        other = families[names.VLLM_PREFIX + metric.vllm.removesuffix("_total")]
        assert [(one.labels, one.value) for one in own.samples] == [(one.labels, one.value) for one in other.samples]
    async with api_server(engine, tokenizer) as plain:
        assert not [name for name in await scrape(plain) if name.startswith("vllm")]


async def test_the_engines_state_is_read_at_the_scrape(api: Api, engine: ScriptedEngine) -> None:
    families = await scrape(api)
    assert value(families, "stageline_num_requests_running") == 2
    assert value(families, "stageline_num_requests_waiting") == 5
    assert value(families, "stageline_kv_cache_usage_ratio") == 0.25
    assert value(families, "stageline_prefix_cache_queries_total") == 100
    assert value(families, "stageline_prefix_cache_hits_total") == 40
    assert value(families, "stageline_num_preemptions_total") == 7
    assert value(families, "stageline_epoch") == 3
    assert value(families, "stageline_slots") == 2
    assert value(families, "stageline_slots_in_flight") == 1
    assert value(families, "stageline_microbatch_imbalance") == 0.25
    assert value(families, "stageline_stage_busy_seconds_total", stage="1") == 2.5
    assert value(families, "stageline_stage_wait_seconds_total", stage="0", cause="downstream") == 0.4
    assert value(families, "stageline_boundary_bytes_total", stage="0") == 4096
    assert value(families, "stageline_stage_layers", stage="1") == 1
    assert value(families, "stageline_stage_ranks", stage="1") == 1
    assert value(families, "stageline_stage_load_ratio", stage="1") == 1.25
    assert value(families, "stageline_pipeline_efficiency_ratio") == 0.8
    assert value(families, "stageline_step_rows_total") == 5000


async def test_the_times_of_a_stage_add_up_to_the_engines(api: Api) -> None:
    families = await scrape(api)
    waits = ("schedule", "feedback", "upstream", "downstream")
    for stage in ("0", "1"):
        seconds = [value(families, "stageline_stage_wait_seconds_total", stage=stage, cause=cause) for cause in waits]
        seconds += [
            value(families, f"stageline_stage_{name}_seconds_total", stage=stage)
            for name in ("busy", "communicating", "idle")
        ]
        assert sum(seconds) == pytest.approx(value(families, "stageline_engine_seconds_total"))


async def test_requests_are_counted_as_they_pass(api: Api, engine: ScriptedEngine, tokenizer: Tokenizer) -> None:
    await api.http.post("/v1/completions", json={"prompt": ["hello", "one two"], "n": 2})
    engine.script = lambda prompt, params: [OverloadedError("full", 1)]
    await api.http.post("/v1/completions", json={"prompt": "hello"})
    await api.http.get("/nothing/of/this/kind")
    await api.http.get("/v1/models/tiny")
    families = await scrape(api)
    prompt_tokens = len(tokenizer.encode("hello")) + len(tokenizer.encode("one two"))
    assert value(families, "stageline_prompt_tokens_total") == prompt_tokens
    assert value(families, "stageline_generation_tokens_total") == 2 * 2 * 3
    assert value(families, "stageline_request_success_total", finished_reason="length") == 4
    assert value(families, "stageline_request_success_total", finished_reason="abort") == 0
    assert value(families, "stageline_time_to_first_token_seconds_count") == 2
    assert value(families, "stageline_inter_token_latency_seconds_count") == 2 * 2 * 2
    assert value(families, "stageline_e2e_request_latency_seconds_count") == 2
    count = "stageline_http_requests_total"
    assert value(families, count, method="POST", path="/v1/completions", code="200") == 1
    assert value(families, count, method="POST", path="/v1/completions", code="429") == 1
    assert value(families, count, method="GET", path="/v1/models/{model}", code="200") == 1
    assert value(families, count, method="GET", path="other", code="404") == 1


async def test_a_client_that_leaves_counts_as_aborted(api: Api, engine: ScriptedEngine) -> None:
    engine.script = lambda prompt, params: [*tokens([70], finish=None), asyncio.Event()]
    client: openai.AsyncOpenAI = api.openai
    stream = await client.completions.create(model="tiny", prompt="x", stream=True)
    await anext(aiter(stream))
    await stream.close()
    await engine.left.wait()
    while value(await scrape(api), "stageline_request_success_total", finished_reason="abort") != 1:
        pass


def test_names_are_unique_and_counters_end_in_total() -> None:
    assert len({metric.name for metric in names.ALL}) == len(names.ALL)
    for metric in names.ALL:
        assert metric.name.endswith("_total") == (metric.kind == "counter")
        assert names.MODEL_NAME not in metric.labels
