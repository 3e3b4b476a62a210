"""The server's metrics: those of requests are counted here as they pass, those of the engine are read at scrape."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from stageline_engine.client.base import EngineClient
from stageline_engine.core.messages import EngineReady, EngineStats
from stageline_engine.core.metric_name import MetricName
from stageline_engine.server import metric_names as names


class Metrics:
    """All metrics of one API server, in a registry of its own.

    Args:
        engine: whose state is exported.
        model_name: value of the label.
        compat: ``vllm`` to export the same values under vLLM's names too.
    """

    def __init__(self, engine: EngineClient, model_name: str, compat: str | None = None) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_EngineCollector(engine, model_name))
        self._success = self._counter(names.SUCCESS)
        self._http = self._counter(names.HTTP_REQUESTS)
        self._model_name = model_name
        self._prompt_tokens = self._counter(names.PROMPT_TOKENS).labels(model_name)
        self._generation_tokens = self._counter(names.GENERATION_TOKENS).labels(model_name)
        self._ttft = self._histogram(names.TTFT, names.TTFT_BUCKETS).labels(model_name)
        self._inter_token = self._histogram(names.INTER_TOKEN, names.INTER_TOKEN_BUCKETS).labels(model_name)
        self._e2e = self._histogram(names.E2E, names.E2E_BUCKETS).labels(model_name)
        self._queue = self._histogram(names.QUEUE, names.TTFT_BUCKETS).labels(model_name)
        self._prefill = self._histogram(names.PREFILL, names.TTFT_BUCKETS).labels(model_name)
        self._decode = self._histogram(names.DECODE, names.E2E_BUCKETS).labels(model_name)
        self._inference = self._histogram(names.INFERENCE, names.E2E_BUCKETS).labels(model_name)
        for reason in ("stop", "length", "abort"):
            self._success.labels(model_name, reason)
        self._exported = CollectorRegistry()
        self._exported.register(_Exported(self._registry, with_vllm_names=compat == "vllm"))

    def first_token(self, prompt_tokens: int, seconds: float) -> None:
        """A prompt of so many tokens began to answer so long after its request arrived."""
        self._prompt_tokens.inc(prompt_tokens)
        self._ttft.observe(seconds)

    def tokens(self, count: int) -> None:
        """So many tokens were generated."""
        self._generation_tokens.inc(count)

    def between_tokens(self, seconds: float) -> None:
        """A choice waited so long for its next token."""
        self._inter_token.observe(seconds)

    def choice_began(self, queue_seconds: float, prefill_seconds: float) -> None:
        """A choice has its first token, after it waited for admission, and then for its prompt."""
        self._queue.observe(queue_seconds)
        self._prefill.observe(prefill_seconds)

    def choice_decoded(self, prefill_seconds: float, decode_seconds: float) -> None:
        """A choice has its last token, so long after its first."""
        self._decode.observe(decode_seconds)
        self._inference.observe(prefill_seconds + decode_seconds)

    def choice_ended(self, finish_reason: str) -> None:
        """A choice ended."""
        self._success.labels(self._model_name, finish_reason).inc()

    def prompt_ended(self, seconds: float) -> None:
        """The last choice of a prompt ended so long after its request arrived."""
        self._e2e.observe(seconds)

    def http_request(self, method: str, path: str, code: int) -> None:
        """A request was answered. ``path`` is a route, never what a client wrote: each value is kept for good."""
        self._http.labels(self._model_name, method, path, str(code)).inc()

    def scrape(self) -> bytes:
        """The text format."""
        return generate_latest(self._exported)

    def _counter(self, metric: MetricName) -> Counter:
        name = metric.full_name.removesuffix("_total")
        return Counter(name, metric.help, (names.MODEL_NAME, *metric.labels), registry=self._registry)

    def _histogram(self, metric: MetricName, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(metric.full_name, metric.help, (names.MODEL_NAME,), registry=self._registry, buckets=buckets)


class _EngineCollector(Collector):
    """The engine's state, as of the scrape."""

    def __init__(self, engine: EngineClient, model_name: str) -> None:
        self._engine = engine
        self._model_name = model_name

    def describe(self) -> Iterable[Metric]:
        """Nothing: registering must not read the state."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """One family for each of ``names.ENGINE_METRICS``."""
        stats, ready = self._engine.stats, self._engine.ready
        for metric, read in _READERS.items():
            family = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
            found = family(metric.full_name, metric.help, labels=(names.MODEL_NAME, *metric.labels))
            for labels, value in read(stats, ready):
                found.add_metric((self._model_name, *labels), value)
            yield found


Labelled = list[tuple[tuple[str, ...], float]]
Reader = Callable[[EngineStats, EngineReady], Labelled]


def _one(value: float) -> Labelled:
    return [((), value)]


def _used_share(stats: EngineStats) -> float:
    return 1.0 - stats.num_free_blocks / stats.num_blocks if stats.num_blocks else 0.0


def _of_engine(attribute: str) -> Reader:
    return lambda stats, ready: _one(getattr(stats, attribute))


def _by_stage(attribute: str) -> Reader:
    return lambda stats, ready: _each(getattr(stage, attribute) for stage in stats.stages)


def _each(values: Iterable[float]) -> Labelled:
    return [((str(stage),), float(value)) for stage, value in enumerate(values)]


def _waits(stats: EngineStats, ready: EngineReady) -> Labelled:
    return [
        ((str(index), cause), getattr(stage, f"wait_{cause}"))
        for index, stage in enumerate(stats.stages)
        for cause in ("schedule", "feedback", "upstream", "downstream")
    ]


_READERS: dict[MetricName, Reader] = {
    names.RUNNING: _of_engine("num_running"),
    names.WAITING: _of_engine("num_waiting"),
    names.KV_USAGE: lambda stats, ready: _one(_used_share(stats)),
    names.PREFIX_QUERIES: _of_engine("prefix_queries"),
    names.PREFIX_HITS: _of_engine("prefix_hits"),
    names.PREEMPTIONS: _of_engine("preemptions"),
    names.ENGINE_SECONDS: _of_engine("seconds"),
    names.STEP_ROWS: _of_engine("rows"),
    names.STAGE_BUSY: _by_stage("busy"),
    names.STAGE_WAIT: _waits,
    names.STAGE_COMMUNICATING: _by_stage("communicating"),
    names.STAGE_IDLE: _by_stage("idle"),
    names.STAGE_LOAD: _by_stage("load"),
    names.STAGE_LAYERS: lambda stats, ready: _each(ready.layer_split),
    names.STAGE_RANKS: lambda stats, ready: _each(ready.tp),
    names.EFFICIENCY: _of_engine("efficiency"),
    names.STAGE_STEPS: _by_stage("steps"),
    names.STAGE_RESIDENT: _by_stage("resident_bytes"),
    names.BOUNDARY_BYTES: _by_stage("boundary_bytes"),
    names.SLOTS: _of_engine("slots"),
    names.SLOTS_IN_FLIGHT: _of_engine("slots_in_flight"),
    names.IMBALANCE: _of_engine("imbalance"),
    names.EPOCH: _of_engine("epoch"),
}


class _Exported(Collector):
    """Every family of another registry, without the times at which it was made, and once more under vLLM's name."""

    def __init__(self, registry: CollectorRegistry, *, with_vllm_names: bool) -> None:
        self._registry = registry
        self._vllm = {
            metric.full_name.removesuffix("_total"): names.VLLM_PREFIX + metric.vllm.removesuffix("_total")
            for metric in names.ALL
            if metric.vllm is not None and with_vllm_names
        }

    def describe(self) -> Iterable[Metric]:
        """Nothing: registering must not read the state."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Own names, then vLLM's, family by family."""
        for family in self._registry.collect():
            # All of them were made when the server started; a series more for each would say no more.
            family.samples = [sample for sample in family.samples if not sample.name.endswith("_created")]
            yield family
            if (name := self._vllm.get(family.name)) is not None:
                renamed = Metric(name, family.documentation, family.type)
                renamed.samples = [_renamed(sample, family.name, name) for sample in family.samples]
                yield renamed


def _renamed(sample: Sample, old: str, new: str) -> Sample:
    return sample._replace(name=new + sample.name.removeprefix(old))
