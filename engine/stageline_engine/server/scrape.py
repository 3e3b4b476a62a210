"""A server's metrics as values: what `stageline top` and `stageline plan --from-metrics` read of a URL."""

from __future__ import annotations

import time
from collections.abc import Iterable

import httpx
import msgspec
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from stageline_engine.core.errors import ConfigurationError
from stageline_engine.core.metric_name import MetricName
from stageline_engine.server import metric_names as names

TIMEOUT_SECONDS = 10.0
WAIT_CAUSES = ("upstream", "downstream", "schedule", "feedback")


class ScrapedStage(msgspec.Struct, frozen=True, kw_only=True):
    """One stage; times are seconds since all stages were ready."""

    busy: float
    waits: dict[str, float]
    """By cause."""
    communicating: float
    idle: float
    steps: float
    boundary_bytes: float
    resident_bytes: float
    layers: int
    ranks: int
    load: float


class Scrape(msgspec.Struct, frozen=True, kw_only=True):
    """One look at a server; counters are as of then."""

    at: float
    """When it was read, on this machine's monotonic clock."""
    model: str
    seconds: float
    """Since all stages were ready."""
    rows: float
    prompts: float
    prompt_tokens: float
    generation_tokens: float
    running: float
    waiting: float
    kv_usage: float
    slots: float
    slots_in_flight: float
    imbalance: float
    efficiency: float
    epoch: float
    stages: list[ScrapedStage]


def scrape(url: str, flag: str) -> Scrape:
    """Read ``url``'s metrics; it is a server's address, with or without `/metrics`.

    Raises:
        ConfigurationError: nothing answers there, or something else than a Stageline server; names ``flag``.
    """
    try:
        answer = httpx.get(url.rstrip("/").removesuffix("/metrics") + "/metrics", timeout=TIMEOUT_SECONDS)
        answer.raise_for_status()
        samples = [sample for family in text_string_to_metric_families(answer.text) for sample in family.samples]
        return _scrape(samples)
    except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
        raise ConfigurationError(flag, url, f"{error}: give a server's address, as http://127.0.0.1:8000") from error
    except httpx.HTTPError as error:
        what = str(error) or type(error).__name__
        raise ConfigurationError(flag, url, f"{what}: give the address of a server that runs") from error
    except (ValueError, KeyError) as error:
        raise ConfigurationError(
            flag, url, f"its metrics are not those of a Stageline server of this version ({error})"
        ) from error


def _scrape(samples: Iterable[Sample]) -> Scrape:
    found: dict[str, list[Sample]] = {}
    for sample in samples:
        found.setdefault(sample.name, []).append(sample)

    def total(metric: MetricName, suffix: str = "") -> float:
        return sum(sample.value for sample in found[metric.full_name + suffix])

    def of(metric: MetricName, stage: int, **labels: str) -> float:
        wanted = {"stage": str(stage), **labels}
        (value,) = [one.value for one in found[metric.full_name] if wanted.items() <= one.labels.items()]
        return value

    stages = [
        ScrapedStage(
            busy=of(names.STAGE_BUSY, stage),
            waits={cause: of(names.STAGE_WAIT, stage, cause=cause) for cause in WAIT_CAUSES},
            communicating=of(names.STAGE_COMMUNICATING, stage),
            idle=of(names.STAGE_IDLE, stage),
            steps=of(names.STAGE_STEPS, stage),
            boundary_bytes=of(names.BOUNDARY_BYTES, stage),
            resident_bytes=of(names.STAGE_RESIDENT, stage),
            layers=int(of(names.STAGE_LAYERS, stage)),
            ranks=int(of(names.STAGE_RANKS, stage)),
            load=of(names.STAGE_LOAD, stage),
        )
        for stage in range(len(found[names.STAGE_LAYERS.full_name]))
    ]
    return Scrape(
        at=time.monotonic(),
        model=found[names.ENGINE_SECONDS.full_name][0].labels[names.MODEL_NAME],
        seconds=total(names.ENGINE_SECONDS),
        rows=total(names.STEP_ROWS),
        prompts=total(names.TTFT, "_count"),
        prompt_tokens=total(names.PROMPT_TOKENS),
        generation_tokens=total(names.GENERATION_TOKENS),
        running=total(names.RUNNING),
        waiting=total(names.WAITING),
        kv_usage=total(names.KV_USAGE),
        slots=total(names.SLOTS),
        slots_in_flight=total(names.SLOTS_IN_FLIGHT),
        imbalance=total(names.IMBALANCE),
        efficiency=total(names.EFFICIENCY),
        epoch=total(names.EPOCH),
        stages=stages,
    )
