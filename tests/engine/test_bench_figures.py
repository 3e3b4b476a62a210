"""The arithmetic of `stageline bench`: latencies, percentiles, medians, ratios, shares of a stage's time."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stageline_engine.bench.figures import FIGURE_NAMES, Figures, RequestRecord, figures, median, percentile, ratios
from stageline_engine.bench.report import Configuration, EngineFacts, Report, Round, Turn, WorkloadResult
from stageline_engine.bench.resources import StageTime, stage_times
from stageline_engine.core.messages import StageStats

DOCS = (Path(__file__).parents[2] / "docs" / "benchmarks.md").read_text()


def record(sent: float, *arrivals: tuple[float, int], prompt: int = 10) -> RequestRecord:
    return RequestRecord(prompt_tokens=prompt, sent=sent, arrivals=list(arrivals))


def same(value: float) -> Figures:
    return Figures(**dict.fromkeys(FIGURE_NAMES, value))


@pytest.mark.parametrize(
    ("percent", "expected"), [(0, 1.0), (50, 2.5), (95, 3.85), (99, 3.97), (100, 4.0), (100 / 3, 2.0)]
)
def test_percentiles_interpolate_between_ranks(percent: float, expected: float) -> None:
    assert percentile([4.0, 1.0, 3.0, 2.0], percent) == pytest.approx(expected)


def test_every_percentile_of_one_value_is_that_value() -> None:
    assert {percentile([7.0], percent) for percent in (0, 50, 99, 100)} == {7.0}


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0, 100), st.floats(0, 100))
def test_percentiles_stay_within_the_values_and_in_order(values: list[float], one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert percentile(values, low) <= percentile(values, high) * (1 + 1e-12)
    assert min(values) <= percentile(values, low) <= max(values) * (1 + 1e-12)


def test_latencies_of_a_request() -> None:
    one = record(10.0, (12.0, 1), (12.5, 1), (14.5, 4))
    assert one.time_to_first_token == 2.0
    assert one.inter_token_latencies() == [0.5, 0.5, 0.5, 0.5, 0.5]
    assert one.output_tokens == 6


def test_figures_of_a_workload() -> None:
    found = figures([record(0.0, (1.0, 1), (2.0, 1)), record(0.5, (2.0, 1), (4.0, 1), (10.0, 1), prompt=5)])
    assert found.makespan == 10.0
    assert found.throughput == 0.5
    assert found.total_throughput == 2.0
    assert found.ttft_p50 == 1.25
    assert found.itl_p50 == 2.0
    assert found.itl_p99 == pytest.approx(5.92)


def test_ratios_are_taken_round_by_round() -> None:
    a, b = [same(2.0), same(9.0), same(4.0)], [same(1.0), same(3.0), same(4.0)]
    found = ratios(a, b)
    assert [one.throughput for one in found.rounds] == [2.0, 3.0, 1.0]
    assert (found.median.throughput, found.low.itl_p99, found.high.ttft_p50) == (2.0, 1.0, 3.0)
    assert median(a).makespan == 4.0


def test_shares_of_a_stage_leave_out_what_lay_before_the_workload() -> None:
    before = StageStats(steps=5, busy=1.0, wait_schedule=2.0, idle=7.0, boundary_bytes=100)
    after = StageStats(
        steps=9, busy=7.0, wait_schedule=2.5, wait_upstream=1.0, wait_feedback=0.5, idle=9.0, boundary_bytes=500
    )
    (found,) = stage_times([before], [after], makespan=10.0)
    assert (found.steps, found.boundary_bytes) == (4, 400)
    assert found.busy == pytest.approx(0.6)
    assert found.wait_schedule == pytest.approx(0.05)
    assert found.wait_upstream == pytest.approx(0.1)
    assert found.wait_feedback == pytest.approx(0.05)
    assert found.other == pytest.approx(0.2)


@pytest.mark.parametrize(
    "struct", [Report, Turn, Configuration, EngineFacts, WorkloadResult, Round, Figures, StageTime]
)
def test_every_key_of_the_file_is_documented(struct: type[msgspec.Struct]) -> None:
    missing = [name for name in struct.__struct_fields__ if not re.search(rf"[`.]{name}\b", DOCS)]
    assert not missing
