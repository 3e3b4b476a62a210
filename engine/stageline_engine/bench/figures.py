"""From the clock readings of requests to the figures of a workload, and from figures to ratios. Pure arithmetic."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence

import msgspec


class RequestRecord(msgspec.Struct, kw_only=True):
    """What was seen of one request. Clock readings in seconds; only differences have a meaning."""

    prompt_tokens: int
    sent: float
    arrivals: list[tuple[float, int]]
    """(clock reading, tokens that came then), in order."""
    cached_tokens: int = 0
    """Prompt tokens that the server took from its prefix cache."""

    @property
    def output_tokens(self) -> int:
        """Tokens that came."""
        return sum(tokens for _, tokens in self.arrivals)

    @property
    def time_to_first_token(self) -> float:
        """Seconds."""
        return self.arrivals[0][0] - self.sent

    def inter_token_latencies(self) -> list[float]:
        """Seconds before each token but those of the first arrival; k tokens at once count as k equal shares."""
        latencies: list[float] = []
        for (before, _), (now, tokens) in zip(self.arrivals, self.arrivals[1:], strict=False):
            latencies += [(now - before) / tokens] * tokens
        return latencies


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of a workload, or ratios of such figures."""

    throughput: float
    """Output tokens per second of the makespan."""
    total_throughput: float
    """Prompt and output tokens per second of the makespan."""
    makespan: float
    """Seconds from sending all requests to the last token."""
    ttft_p50: float
    """Seconds to the first token of a request."""
    ttft_p95: float
    ttft_p99: float
    itl_p50: float
    """Seconds between two tokens of a request."""
    itl_p95: float
    itl_p99: float


FIGURE_NAMES = Figures.__struct_fields__


def percentile(values: Sequence[float], percent: float) -> float:
    """Interpolated linearly between the two nearest ranks; ``values`` in any order, at least one."""
    ordered = sorted(values)
    place = (len(ordered) - 1) * percent / 100
    low = math.floor(place)
    high = math.ceil(place)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def figures(records: Sequence[RequestRecord]) -> Figures:
    """Of requests that were sent at once; each has at least two tokens."""
    first = [record.time_to_first_token for record in records]
    between = [latency for record in records for latency in record.inter_token_latencies()]
    makespan = max(record.arrivals[-1][0] for record in records) - min(record.sent for record in records)
    num_output = sum(record.output_tokens for record in records)
    num_prompt = sum(record.prompt_tokens for record in records)
    return Figures(
        throughput=num_output / makespan,
        total_throughput=(num_prompt + num_output) / makespan,
        makespan=makespan,
        ttft_p50=percentile(first, 50),
        ttft_p95=percentile(first, 95),
        ttft_p99=percentile(first, 99),
        itl_p50=percentile(between, 50),
        itl_p95=percentile(between, 95),
        itl_p99=percentile(between, 99),
    )


def median(rounds: Sequence[Figures]) -> Figures:
    """Of each figure by itself."""
    return _each(rounds, statistics.median)


class Ratios(msgspec.Struct, frozen=True, kw_only=True):
    """A ÷ B of each figure, round by round. Above 1, A has more throughput, but also longer times."""

    rounds: list[Figures]
    median: Figures
    low: Figures
    high: Figures


def ratios(of: Sequence[Figures], to: Sequence[Figures]) -> Ratios:
    """Round r of ``of`` ÷ round r of ``to``: both ran next to each other, so a slow spell of the machine cancels."""
    rounds = [
        Figures(**{name: getattr(a, name) / getattr(b, name) for name in FIGURE_NAMES})
        for a, b in zip(of, to, strict=True)
    ]
    return Ratios(rounds=rounds, median=median(rounds), low=_each(rounds, min), high=_each(rounds, max))


def _each(rounds: Sequence[Figures], reduce: Callable[[list[float]], float]) -> Figures:
    return Figures(**{name: reduce([getattr(one, name) for one in rounds]) for name in FIGURE_NAMES})
