"""Is it well? Latency, throughput, errors and saturation of each deployment."""

from __future__ import annotations

from typing import Final

from dashboards.board import Board, Panel, Query, Row
from dashboards.queries import BY_DEPLOYMENT, CHOSEN, DEPLOYMENT, ENGINE_VARIABLES, quantiles, rate, share, total

_FAILED: Final = 'code=~"5.."'

BOARD: Final = Board(
    uid="stageline-overview",
    title="Stageline / Overview",
    description="Is it well? Latency, throughput, errors and saturation of each InferenceDeployment.",
    variables=ENGINE_VARIABLES,
    rows=(
        Row(
            "Is it well?",
            (
                Panel(
                    "Pipelines that answer a scrape",
                    "Heads that Prometheus reaches. Fewer than replicas: some start, or are gone.",
                    "short",
                    [Query(f"count by ({BY_DEPLOYMENT}) (stageline_epoch{{{CHOSEN}}})", DEPLOYMENT)],
                    width=6,
                    now=True,
                ),
                Panel(
                    "Answers that failed",
                    "Share of HTTP answers with a status of 500 or more. Above 1 %: look at the head's log.",
                    "percentunit",
                    [
                        Query(
                            f"({rate('stageline_http_requests_total', more=_FAILED)} or "
                            f"0 * {rate('stageline_http_requests_total')}) / {rate('stageline_http_requests_total')}",
                            DEPLOYMENT,
                        )
                    ],
                    width=6,
                    now=True,
                ),
                Panel(
                    "Generated tokens",
                    "Tokens of answers in a second, over all replicas.",
                    "tok/s",
                    [Query(rate("stageline_generation_tokens_total"), DEPLOYMENT)],
                    width=6,
                    now=True,
                ),
                Panel(
                    "KV cache in use",
                    "Share of the blocks that sequences hold, the fullest replica. Near 100 %: sequences wait or are "
                    "preempted.",
                    "percentunit",
                    [Query(f"max by ({BY_DEPLOYMENT}) (stageline_kv_cache_usage_ratio{{{CHOSEN}}})", DEPLOYMENT)],
                    width=6,
                    now=True,
                ),
            ),
        ),
        Row(
            "How long do people wait?",
            (
                Panel(
                    "Time to the first token",
                    "From the arrival of a request to its first token: queue and prefill.",
                    "s",
                    quantiles("stageline_time_to_first_token_seconds"),
                ),
                Panel(
                    "Time between tokens",
                    "What a reader of a stream sees. 0.1 s is faster than people read.",
                    "s",
                    quantiles("stageline_inter_token_latency_seconds"),
                ),
                Panel(
                    "Time of a whole request",
                    "From arrival to the last token.",
                    "s",
                    quantiles("stageline_e2e_request_latency_seconds"),
                ),
            ),
        ),
        Row(
            "How much does it do?",
            (
                Panel(
                    "Tokens",
                    "Prompt tokens that were taken, and tokens that were generated.",
                    "tok/s",
                    [
                        Query(rate("stageline_prompt_tokens_total"), f"prompt {DEPLOYMENT}"),
                        Query(rate("stageline_generation_tokens_total"), f"generated {DEPLOYMENT}"),
                    ],
                ),
                Panel(
                    "HTTP answers by status",
                    "429: the queue is full. 499: the client left. 5xx: a fault.",
                    "reqps",
                    [
                        Query(
                            rate("stageline_http_requests_total", f"code, {BY_DEPLOYMENT}"),
                            f"{{{{code}}}} {DEPLOYMENT}",
                        )
                    ],
                    stacked=True,
                ),
                Panel(
                    "Prompt tokens found in the prefix cache",
                    "Share of prompt tokens that need no computation.",
                    "percentunit",
                    [
                        Query(
                            share("stageline_prefix_cache_hits_total", "stageline_prefix_cache_queries_total"),
                            DEPLOYMENT,
                        )
                    ],
                    top=1,
                ),
            ),
        ),
        Row(
            "Is it full?",
            (
                Panel(
                    "Sequences",
                    "Running ones, and those that wait for admission. A queue that grows wants more replicas.",
                    "short",
                    [
                        Query(total("stageline_num_requests_running"), f"running {DEPLOYMENT}"),
                        Query(total("stageline_num_requests_waiting"), f"waiting {DEPLOYMENT}"),
                    ],
                ),
                Panel(
                    "KV cache in use",
                    "Share of the blocks that sequences hold, the fullest replica.",
                    "percentunit",
                    [Query(f"max by ({BY_DEPLOYMENT}) (stageline_kv_cache_usage_ratio{{{CHOSEN}}})", DEPLOYMENT)],
                    top=1,
                ),
                Panel(
                    "Preemptions",
                    "Sequences that lost their KV blocks to others and are computed again: work done twice.",
                    "ops",
                    [Query(rate("stageline_num_preemptions_total"), DEPLOYMENT)],
                ),
            ),
        ),
    ),
)
