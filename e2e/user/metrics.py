"""A scrape, as Prometheus would do it."""

from __future__ import annotations

import httpx
from prometheus_client.parser import text_string_to_metric_families


def scrape(address: str, name: str, **labels: str) -> float:
    """The value of a metric on ``http://ADDRESS/metrics``, summed over the series that have ``labels``."""
    text = httpx.get(f"http://{address}/metrics", timeout=30).raise_for_status().text
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    found = [each.value for each in samples if each.name == name and labels.items() <= each.labels.items()]
    assert found, f"no series of {name} has the labels {labels}"
    return sum(found)
