"""The operator's own metrics, for ``GET /metrics``. Their names and labels are an API, and are written here once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from stageline_operator.api.conditions import Phase
from stageline_operator.api.status import InferenceDeploymentStatus
from stageline_operator.observe.store import Key

PREFIX = "stageline_operator"
_SECONDS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20)


@dataclass(frozen=True, slots=True)
class _Shown:
    phase: Phase | None
    wanted: int
    ready: int


class _Resources(Collector):
    """State of each resource; a resource that is gone is gone here too."""

    def __init__(self) -> None:
        self.shown: dict[Key, _Shown] = {}

    def collect(self) -> Iterator[GaugeMetricFamily]:
        names = ["namespace", "name"]
        phase = GaugeMetricFamily(
            f"{PREFIX}_resource_phase", "1 for the phase that a resource is in.", labels=[*names, "phase"]
        )
        wanted = GaugeMetricFamily(f"{PREFIX}_resource_replicas", "Replicas that the spec asks for.", labels=names)
        ready = GaugeMetricFamily(f"{PREFIX}_resource_ready_replicas", "Replicas that answer.", labels=names)
        for key, shown in list(self.shown.items()):
            if shown.phase is not None:
                phase.add_metric([*key, shown.phase.value], 1)
            wanted.add_metric(key, shown.wanted)
            ready.add_metric(key, shown.ready)
        yield from (phase, wanted, ready)


class Metrics:
    """All metrics of one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._resources = _Resources()
        self.registry.register(self._resources)
        self.reconcile_seconds = Histogram(
            f"{PREFIX}_reconcile_seconds",
            "Time that one look at a resource took, with its writes.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.writes = Counter(
            f"{PREFIX}_writes", "Writes sent to the API server.", ["verb", "kind"], registry=self.registry
        )
        self.errors = Counter(
            f"{PREFIX}_errors", "Looks at a resource that failed, by reason.", ["reason"], registry=self.registry
        )
        self.queue_depth = Gauge(f"{PREFIX}_queue_depth", "Resources that wait for a look.", registry=self.registry)
        self.leading = Gauge(f"{PREFIX}_leading", "1 while this process holds the Lease.", registry=self.registry)
        self.objects = Gauge(f"{PREFIX}_objects", "Objects that are watched.", registry=self.registry)
        self.missed_deletions = Counter(
            f"{PREFIX}_missed_deletions",
            "Objects that a read showed to be gone while the watch had not told.",
            registry=self.registry,
        )
        self.namespace_refused = Gauge(
            f"{PREFIX}_namespace_refused",
            "1 while lists in a namespace to serve are refused, so that it is not served.",
            ["namespace"],
            registry=self.registry,
        )

    def wrote(self, verb: str, kind: str) -> None:
        """A write was sent."""
        self.writes.labels(verb, kind).inc()

    def show(self, key: Key, status: InferenceDeploymentStatus, wanted: int) -> None:
        """State of a resource after a look at it."""
        self._resources.shown[key] = _Shown(status.phase, wanted, status.ready_replicas)

    def forget(self, key: Key) -> None:
        """The resource is gone."""
        self._resources.shown.pop(key, None)
