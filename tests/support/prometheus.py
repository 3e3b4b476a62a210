"""A real Prometheus on loopback, which scrapes what a test runs."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from support.kube.parts import obtain_prometheus
from support.kube.waiting import wait_until


@dataclass(frozen=True)
class Target:
    """Something with ``/metrics``, and the labels that a cluster's service discovery would give it."""

    address: str
    labels: Mapping[str, str]


class Prometheus:
    """Queries; see :func:`prometheus`."""

    def __init__(self, url: str) -> None:
        self._client = httpx.Client(base_url=f"{url}/api/v1", timeout=10)

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """Labels and value of each series of the result.

        Raises:
            AssertionError: Prometheus refuses the expression; the text says why.
        """
        result = self._get("query", query=expression)["result"]
        return [(series["metric"], float(series["value"][1])) for series in result]

    def query_range(self, expression: str, start: float, end: float, step: float) -> list[dict[str, Any]]:
        """Series with ``metric`` and ``values`` (pairs of seconds and text); times are seconds since 1970."""
        found: list[dict[str, Any]] = self._get(
            "query_range", query=expression, start=f"{start}", end=f"{end}", step=f"{step}"
        )["result"]
        return found

    def label_values(self, metric: str, label: str) -> list[str]:
        """Values of ``label`` in the series of ``metric``, as Grafana asks for them."""
        response = self._client.get(f"/label/{label}/values", params={"match[]": metric})
        values: list[str] = response.json()["data"]
        return values

    def age(self) -> float:
        """Seconds since its first scrape."""
        found = self.query("time() - min(min_over_time(timestamp(up)[10m:1s]))")
        return found[0][1] if found else 0.0

    def is_ready(self) -> bool:
        """Whether it answers."""
        try:
            return bool(self.query("vector(1)"))
        except (httpx.TransportError, ValueError):
            return False

    def close(self) -> None:
        """Let go of connections."""
        self._client.close()

    def _get(self, path: str, **parameters: str) -> dict[str, Any]:
        answer = self._client.get(f"/{path}", params=parameters).json()
        assert answer["status"] == "success", f"{parameters}: {answer.get('error')}"
        data: dict[str, Any] = answer["data"]
        return data


@contextmanager
def prometheus(folder: Path, targets: Sequence[Target]) -> Iterator[Prometheus]:
    """A server that scrapes ``targets`` every second and keeps its data in ``folder``."""
    config = folder / "prometheus.yaml"
    scrape = {
        "job_name": "stageline",
        "honor_labels": True,
        "static_configs": [{"targets": [one.address], "labels": dict(one.labels)} for one in targets],
    }
    config.write_text(yaml.safe_dump({"global": {"scrape_interval": "1s"}, "scrape_configs": [scrape]}))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    with (folder / "prometheus.log").open("w") as log:
        process = subprocess.Popen(
            [
                obtain_prometheus() / "prometheus",
                f"--config.file={config}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address={address}",
            ],
            stdout=log,
            stderr=log,
        )
        server = Prometheus(f"http://{address}")
        try:
            wait_until(server.is_ready, "Prometheus answers")
            yield server
        finally:
            server.close()
            process.terminate()
            process.wait(timeout=20)
