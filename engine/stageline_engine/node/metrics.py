"""What a node tells of its ranks, in Prometheus' text format: each one's own account; the head has that of rank 0.

Names begin with ``rank_`` and ``node_``, none of which the head has, so that no sum over pods counts anything twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import msgspec
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from stageline_engine.comm.rank_counters import RankCounts
from stageline_engine.core.metric_name import MetricName

STAGE = "stage"
"""Label of every metric of a node."""
_RANK = ("rank",)
WAIT_CAUSES = ("upstream", "downstream", "schedule", "feedback")


class RankState(msgspec.Struct, frozen=True):
    """One rank, as its node knows it."""

    counts: RankCounts
    resident_bytes: int


class NodeState(msgspec.Struct, frozen=True):
    """All that a scrape shows."""

    stage: int
    epoch: int
    """Of which the stage is a member; 0: of none."""
    is_ready: bool
    hears_head: bool
    ranks: Sequence[RankState] = ()
    """In order."""


READY = MetricName("node_ready", "gauge", "1 while the stage is a member of the head's epoch, else 0.")
HEAD_HEARD = MetricName("node_head_heard", "gauge", "1 while the head answers this node, else 0.")
NODE_EPOCH = MetricName("node_epoch", "gauge", "Epoch of which the stage is a member; 0: of none.")
RESIDENT = MetricName("rank_resident_bytes", "gauge", "Resident memory of a rank's process.", _RANK)
WAIT = MetricName(
    "rank_wait_seconds_total",
    "counter",
    "Seconds in which a rank waited: for a plan (schedule), whether or not there was work; for a token (feedback), "
    "activations (upstream), or for the next stage to take its own (downstream).",
    (*_RANK, "cause"),
)
COUNTS: dict[str, MetricName] = {
    "busy": MetricName("rank_busy_seconds_total", "counter", "Seconds in which a rank ran the model.", _RANK),
    "communicating": MetricName(
        "rank_communicating_seconds_total",
        "counter",
        "Seconds in which a rank took, unpacked, booked and handed on messages and activations.",
        _RANK,
    ),
    "steps": MetricName("rank_steps_total", "counter", "Micro-batches that a rank ran.", _RANK),
    "rows": MetricName("rank_step_rows_total", "counter", "Rows of all micro-batches that a rank ran.", _RANK),
    "boundary_bytes": MetricName(
        "rank_boundary_bytes_total", "counter", "Bytes that a rank sent to the next stage.", _RANK
    ),
    "load_seconds": MetricName(
        "rank_load_seconds", "gauge", "Seconds that a rank took to build its layers and read their weights.", _RANK
    ),
    "warm_up_seconds": MetricName("rank_warm_up_seconds", "gauge", "Seconds that a rank took to warm up.", _RANK),
    "weight_bytes": MetricName("rank_weight_bytes", "gauge", "Weights that a rank holds.", _RANK),
    "kv_bytes": MetricName("rank_kv_cache_bytes", "gauge", "KV cache that a rank has.", _RANK),
}
"""By field of RankCounts."""

ALL = (READY, HEAD_HEARD, NODE_EPOCH, RESIDENT, *COUNTS.values(), WAIT)


class NodeCollector(Collector):
    """Exports what ``state`` gives."""

    def __init__(self, state: Callable[[], NodeState]) -> None:
        self._state = state

    def collect(self) -> Iterable[Metric]:
        """The metrics of one scrape."""
        state = self._state()
        stage = str(state.stage)
        for metric, value in ((READY, state.is_ready), (HEAD_HEARD, state.hears_head), (NODE_EPOCH, state.epoch)):
            yield _family(metric, [((stage,), float(value))])
        ranks = [((stage, str(rank)), known) for rank, known in enumerate(state.ranks)]
        yield _family(RESIDENT, [(labels, known.resident_bytes) for labels, known in ranks])
        for field, metric in COUNTS.items():
            yield _family(metric, [(labels, getattr(known.counts, field)) for labels, known in ranks])
        waits = [
            ((*labels, cause), getattr(known.counts, f"wait_{cause}"))
            for labels, known in ranks
            for cause in WAIT_CAUSES
        ]
        yield _family(WAIT, waits)


def exposition(state: Callable[[], NodeState]) -> Callable[[], bytes]:
    """Gives the text of a scrape each time that it is called."""
    registry = CollectorRegistry()
    registry.register(NodeCollector(state))
    return lambda: generate_latest(registry)


def markdown_table() -> str:
    """The table of docs/metrics.md."""
    lines = ["| name | kind | labels | meaning |", "|---|---|---|---|"]
    for metric in ALL:
        labels = ", ".join(f"`{label}`" for label in (STAGE, *metric.labels))
        lines.append(f"| `{metric.full_name}` | {metric.kind} | {labels} | {metric.help} |")
    return "\n".join(lines) + "\n"


def _family(metric: MetricName, samples: Iterable[tuple[tuple[str, ...], float]]) -> Metric:
    make = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    family = make(metric.full_name, metric.help, labels=(STAGE, *metric.labels))
    for labels, value in samples:
        family.add_metric(labels, value)
    return family
