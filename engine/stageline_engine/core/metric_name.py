"""What a metric is called, and how the tables of docs/metrics.md show it."""

from __future__ import annotations

from typing import Literal, NamedTuple

PREFIX = "stageline_"
Kind = Literal["gauge", "counter", "histogram"]


class MetricName(NamedTuple):
    """One metric; names are without prefix and, for counters, with ``_total``."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    """Besides those that every metric of the same page has."""
    vllm: str | None = None
    """Name under ``vllm:``; None when vLLM has no such metric."""

    @property
    def full_name(self) -> str:
        """As scraped."""
        return PREFIX + self.name
