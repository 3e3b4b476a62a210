"""Prints docs/metrics.md: what the engine's metrics mean, and all of their names."""

from __future__ import annotations

from stageline_engine.engine.stage_times import LATELY_SECONDS
from stageline_engine.node import metrics as node_metrics
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

Every metric has the label `model_name`. Stages on other machines have more to tell: see [the metrics of a
node](#the-metrics-of-a-node). `path` is a route (`other` for unknown ones) and `code` a status, 499 for a
client that left before its answer. Histograms have the series `_bucket`, `_sum` and `_count`.

This page is made from `server/metric_names.py` and `node/metrics.py` in `engine/stageline_engine` by `make generate`;
tests keep it, and real scrapes, equal to them.

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
NODE_TEXT = """
## The metrics of a node

`GET /metrics` on the status port of `stageline node`, that is of every stage's pod. They are each rank's own account of
itself, read from the rank and not from the head, so they are there while the head is not. No name is one of the head's:

| to know | take | because |
|---|---|---|
| where time goes, which stage is the slowest | the head's `stage_…` | idling is told from waiting; times add up |
| what one rank does, its memory, its loading | a node's `rank_…` | the head knows the times of rank 0 only |

`stageline_stage_busy_seconds_total` and `stageline_rank_busy_seconds_total{rank="0"}` count the same time: do not add
them. A rank does not know whether there is work anywhere, so `rank_wait_seconds_total{cause="schedule"}` has its idle
time too. Counters begin anew with the process of a rank. Values are at most half a second old.

"""

if __name__ == "__main__":
    print(TEXT + markdown_table() + NODE_TEXT + node_metrics.markdown_table(), end="")
