"""Names, kinds and meanings of all metrics, in one place. docs/metrics.md is made from this by `make generate`."""

from __future__ import annotations

from stageline_engine.core.metric_name import MetricName

VLLM_PREFIX = "vllm:"
MODEL_NAME = "model_name"
"""Label of every metric: the served model's name."""

RUNNING = MetricName("num_requests_running", "gauge", "Sequences that are being run.", vllm="num_requests_running")
WAITING = MetricName("num_requests_waiting", "gauge", "Sequences that wait for admission.", vllm="num_requests_waiting")
KV_USAGE = MetricName(
    "kv_cache_usage_ratio", "gauge", "Used share of the KV blocks, 0 to 1.", vllm="kv_cache_usage_perc"
)
PREFIX_QUERIES = MetricName(
    "prefix_cache_queries_total",
    "counter",
    "Prompt tokens that were looked up in the prefix cache.",
    vllm="prefix_cache_queries_total",
)
PREFIX_HITS = MetricName(
    "prefix_cache_hits_total",
    "counter",
    "Prompt tokens that were found in the prefix cache.",
    vllm="prefix_cache_hits_total",
)
PREEMPTIONS = MetricName(
    "num_preemptions_total",
    "counter",
    "Sequences that lost their KV blocks to others and were computed again.",
    vllm="num_preemptions_total",
)
PROMPT_TOKENS = MetricName(
    "prompt_tokens_total", "counter", "Prompt tokens of requests that began to answer.", vllm="prompt_tokens_total"
)
GENERATION_TOKENS = MetricName(
    "generation_tokens_total", "counter", "Generated tokens.", vllm="generation_tokens_total"
)
SUCCESS = MetricName(
    "request_success_total",
    "counter",
    "Choices that ended, by finish reason.",
    ("finished_reason",),
    vllm="request_success_total",
)
TTFT = MetricName(
    "time_to_first_token_seconds",
    "histogram",
    "Seconds from the arrival of a request to the first token of a prompt.",
    vllm="time_to_first_token_seconds",
)
INTER_TOKEN = MetricName(
    "inter_token_latency_seconds",
    "histogram",
    "Seconds between two tokens of a choice.",
    vllm="inter_token_latency_seconds",
)
E2E = MetricName(
    "e2e_request_latency_seconds",
    "histogram",
    "Seconds from the arrival of a request to the end of a prompt's last choice.",
    vllm="e2e_request_latency_seconds",
)
QUEUE = MetricName(
    "request_queue_time_seconds",
    "histogram",
    "Seconds that a choice waited for its admission.",
    vllm="request_queue_time_seconds",
)
PREFILL = MetricName(
    "request_prefill_time_seconds",
    "histogram",
    "Seconds from a choice's admission to its first token.",
    vllm="request_prefill_time_seconds",
)
DECODE = MetricName(
    "request_decode_time_seconds",
    "histogram",
    "Seconds from a choice's first token to its last.",
    vllm="request_decode_time_seconds",
)
INFERENCE = MetricName(
    "request_inference_time_seconds",
    "histogram",
    "Seconds from a choice's admission to its last token: prefill and decode.",
    vllm="request_inference_time_seconds",
)
ENGINE_SECONDS = MetricName(
    "engine_seconds_total", "counter", "Seconds since all stages were ready: what the times of a stage add up to."
)
STEP_ROWS = MetricName("step_rows_total", "counter", "Rows of all micro-batches.")
STAGE_BUSY = MetricName("stage_busy_seconds_total", "counter", "Seconds in which a stage ran the model.", ("stage",))
STAGE_WAIT = MetricName(
    "stage_wait_seconds_total",
    "counter",
    "Seconds in which a stage waited although there was work: for a plan (schedule), a token (feedback), activations "
    "(upstream), or for the next stage to take its own (downstream).",
    ("stage", "cause"),
)
STAGE_COMMUNICATING = MetricName(
    "stage_communicating_seconds_total",
    "counter",
    "Seconds in which a stage took, unpacked, booked and handed on messages and activations.",
    ("stage",),
)
STAGE_IDLE = MetricName(
    "stage_idle_seconds_total", "counter", "Seconds in which there was nothing to do, for any stage.", ("stage",)
)
STAGE_LOAD = MetricName(
    "stage_load_ratio",
    "gauge",
    "Lately busy seconds of a stage / the mean of all stages; the largest is the slowest stage's, which holds the "
    "others up by as much as it is above 1.",
    ("stage",),
)
STAGE_LAYERS = MetricName("stage_layers", "gauge", "Layers that a stage runs.", ("stage",))
STAGE_RANKS = MetricName("stage_ranks", "gauge", "Tensor-parallel ranks of a stage.", ("stage",))
EFFICIENCY = MetricName(
    "pipeline_efficiency_ratio",
    "gauge",
    "Lately busy share of the time with work, over all stages, 0 to 1; what is missing to 1 is the bubble.",
)
STAGE_STEPS = MetricName("stage_steps_total", "counter", "Micro-batches that a stage ran.", ("stage",))
STAGE_RESIDENT = MetricName(
    "stage_resident_bytes", "gauge", "Resident memory of a stage, summed over its ranks.", ("stage",)
)
BOUNDARY_BYTES = MetricName("boundary_bytes_total", "counter", "Bytes that a stage sent to the next one.", ("stage",))
SLOTS = MetricName("slots", "gauge", "Micro-batches that are kept in flight (M).")
SLOTS_IN_FLIGHT = MetricName("slots_in_flight", "gauge", "Micro-batches in flight now.")
IMBALANCE = MetricName(
    "microbatch_imbalance",
    "gauge",
    "(longest - mean) / mean predicted time of the slots' last micro-batches; 0 is balanced.",
)
EPOCH = MetricName("epoch", "gauge", "Generation number of the process groups; grows with each recovery.")
HTTP_REQUESTS = MetricName(
    "http_requests_total", "counter", "HTTP requests, by route and status.", ("method", "path", "code")
)

ENGINE_METRICS = (
    RUNNING,
    WAITING,
    KV_USAGE,
    PREFIX_QUERIES,
    PREFIX_HITS,
    PREEMPTIONS,
    ENGINE_SECONDS,
    STEP_ROWS,
    STAGE_BUSY,
    STAGE_WAIT,
    STAGE_COMMUNICATING,
    STAGE_IDLE,
    STAGE_LOAD,
    STAGE_LAYERS,
    STAGE_RANKS,
    EFFICIENCY,
    STAGE_STEPS,
    STAGE_RESIDENT,
    BOUNDARY_BYTES,
    SLOTS,
    SLOTS_IN_FLIGHT,
    IMBALANCE,
    EPOCH,
)
"""Read from the engine's state at scrape."""

REQUEST_METRICS = (
    PROMPT_TOKENS,
    GENERATION_TOKENS,
    SUCCESS,
    TTFT,
    INTER_TOKEN,
    E2E,
    QUEUE,
    PREFILL,
    DECODE,
    INFERENCE,
    HTTP_REQUESTS,
)
"""Counted where requests pass."""

ALL = (*ENGINE_METRICS, *REQUEST_METRICS)

TTFT_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0)
INTER_TOKEN_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 10.0)
E2E_BUCKETS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 60.0, 120.0, 240.0, 480.0, 960.0)
"""Upper bounds in seconds."""


def markdown_table() -> str:
    """The table of docs/metrics.md."""
    lines = ["| name | kind | labels | under `vllm:` | meaning |", "|---|---|---|---|---|"]
    for metric in ALL:
        labels = ", ".join(f"`{label}`" for label in (MODEL_NAME, *metric.labels))
        vllm = f"`{VLLM_PREFIX}{metric.vllm}`" if metric.vllm else ""
        lines.append(f"| `{metric.full_name}` | {metric.kind} | {labels} | {vllm} | {metric.help} |")
    return "\n".join(lines) + "\n"
