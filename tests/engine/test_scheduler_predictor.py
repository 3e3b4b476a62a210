"""Step times are learnt from reports, and M follows from them."""

from __future__ import annotations

import pytest

from stageline_engine.core.messages import StepReport
from stageline_engine.scheduler.predictor import PRIOR, StepCost, StepShape, StepTimePredictor

TRUE = StepCost(base=0.03, decode_row=0.002, context_token=3e-7, prefill_token=0.0015, prefix_product=2e-7)


def report(stage: int, busy: float) -> StepReport:
    return StepReport(1, 1, stage, busy, 0.0, 0.0, 0.0, 0.0, 0)


def shapes(count: int) -> list[StepShape]:
    return [
        StepShape(
            number * 7 % 33,
            (number * 7 % 33) * (100 + number * 13 % 400),
            number * 31 % 200,
            (number * 31 % 200) * (number * 17 % 900),
        )
        for number in range(count)
    ]


def test_the_prior_speaks_until_reports_come() -> None:
    predictor = StepTimePredictor(2)
    assert predictor.costs() == [PRIOR, PRIOR]
    assert predictor.slowest(StepShape(decode_rows=10)) == pytest.approx(PRIOR.base + 10 * PRIOR.decode_row)
    assert predictor.total.base == pytest.approx(2 * PRIOR.base)


def test_a_linear_stage_is_learnt() -> None:
    predictor = StepTimePredictor(1)
    for shape in shapes(200):
        predictor.observe(shape, report(0, TRUE.seconds(shape)))
    for shape in shapes(50):
        assert predictor.slowest(shape) == pytest.approx(TRUE.seconds(shape), rel=0.03)


def test_stages_are_learnt_apart() -> None:
    predictor = StepTimePredictor(2)
    for shape in shapes(100):
        predictor.observe(shape, report(0, TRUE.seconds(shape)))
        predictor.observe(shape, report(1, 3 * TRUE.seconds(shape)))
    first, second = (cost.seconds(StepShape(16, 3200)) for cost in predictor.costs())
    assert second == pytest.approx(3 * first, rel=0.05)
    assert predictor.slowest(StepShape(16, 3200)) == second


def test_a_stage_that_changes_is_learnt_anew() -> None:
    predictor = StepTimePredictor(1)
    shape = StepShape(16, 3200)
    for seconds in [0.05] * 500 + [0.1] * 1000:
        predictor.observe(shape, report(0, seconds))
    assert predictor.slowest(shape) == pytest.approx(0.1, rel=0.05)


def test_terms_that_were_never_seen_stay_near_the_prior() -> None:
    predictor = StepTimePredictor(1)
    for rows in range(1, 33):
        predictor.observe(StepShape(rows, rows * 10), report(0, 0.02 + 0.001 * rows))
    assert predictor.costs()[0].prefill_token == pytest.approx(PRIOR.prefill_token, rel=0.01)


def test_coefficients_are_never_negative() -> None:
    predictor = StepTimePredictor(1)
    for rows in range(1, 65):
        predictor.observe(StepShape(decode_rows=rows), report(0, 0.1 / rows))
    assert min(predictor.costs()[0]) >= 0.0


def test_one_hiccup_does_not_turn_the_fit() -> None:
    predictor = StepTimePredictor(1)
    for shape in shapes(100):
        predictor.observe(shape, report(0, TRUE.seconds(shape)))
    predictor.observe(StepShape(8, 800), report(0, 30.0))
    for shape in shapes(16):
        predictor.observe(shape, report(0, TRUE.seconds(shape)))
    assert predictor.slowest(StepShape(8, 800)) == pytest.approx(TRUE.seconds(StepShape(8, 800)), rel=0.1)
