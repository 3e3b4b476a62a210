"""Prints docs/metrics.md: what the engine's metrics mean, and all of their names."""

from __future__ import annotations

from stageline_engine.engine.stage_times import LATELY_SECONDS
from stageline_engine.server.metric_names import markdown_table

ROWS = (
    (
        "stage_busy_seconds_total",
        "runs the model and samples; what its tensor-parallel ranks tell each other meanwhile counts as busy",
    ),
    ('stage_wait_seconds_total{cause="upstream"}', "has a plan, and waits for the previous stage's activations"),
    (
        'stage_wait_seconds_total{cause="downstream"}',
        "cannot hand on what it computed: two micro-batches wait for the next stage already",
    ),
    (
        'stage_wait_seconds_total{cause="schedule"}',
        "waits for a plan although there is work: all of it is elsewhere in the pipeline, or the engine core is late",
    ),
    ('stage_wait_seconds_total{cause="feedback"}', "has a plan, and waits for a token that it reads (stage 0)"),
    (
        "stage_communicating_seconds_total",
        "takes, unpacks and books messages, and begins to hand on activations and results; "
        "the transfer itself runs beside the next step",
    ),
    ("stage_idle_seconds_total", "has nothing to do, as all others: no sequence lives, and no step is in flight"),
)
TIMES = "\n".join(("| time | the stage |", "|---|---|", *(f"| `{name}` | {text} |" for name, text in ROWS)))
TEXT = f"""\
# Metrics

`GET /metrics` on the API server, in Prometheus' text format. With `--metrics-compat vllm` the metrics that vLLM has too
are also exported under its names, with the same values, so that dashboards and gateway schedulers made for it work.

Every metric has the label `model_name`. `path` is a route (`other` for unknown ones) and `code` a status, 499 for a
client that left before its answer. Histograms have the series `_bucket`, `_sum` and `_count`.

This page is made from `engine/stageline_engine/server/metric_names.py` by `make generate`; a test keeps it, and a real
scrape, equal to that.

## Where a stage's time goes

A stage accounts for all of its time, by cause, so that over any interval

    busy + wait (upstream + downstream + schedule + feedback) + communicating + idle = engine_seconds_total

{TIMES}

So a share is the increase of one of them divided by that of `engine_seconds_total`, and what is neither busy nor idle
is the bubble. A step is accounted for when the stage has ended it, so over a short interval the sum may be off by the
length of a step. With tensor parallelism the times are those of rank 0. The heartbeat token of an idle engine, one
every two seconds, is work like any other.

`pipeline_efficiency_ratio` is busy ÷ (engine seconds - idle), over all stages; `stage_load_ratio` is a stage's busy
seconds ÷ the mean of all stages. Both are of the newest {LATELY_SECONDS:g} seconds with work. The stage with the
largest load is the slowest, and holds the others up by as much as that is above 1:
`stageline plan MODEL --from-metrics URL` says which split would be better ([planning.md](planning.md)).
`microbatch_imbalance` compares micro-batches, not stages: 0 when all slots take equally long.

`stageline top URL` shows all of this in a terminal, of a server that runs.

## All names

<!-- table -->
"""

if __name__ == "__main__":
    print(TEXT + markdown_table(), end="")
