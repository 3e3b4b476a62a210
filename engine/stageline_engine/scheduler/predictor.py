"""How long a stage takes for a micro-batch: learnt online from the stages' own reports. Reads no clock.

    seconds = base + c1·decode rows + c2·context tokens + c3·prefill tokens + c4·Σ prefill tokens × prefix

Least squares with forgetting and a prior, one fit for each stage. Coefficients are never negative: a fit that would
make one so leaves that term out.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from stageline_engine.core.messages import StepReport


class StepShape(NamedTuple):
    """What a micro-batch's time depends on."""

    decode_rows: int = 0
    context_tokens: int = 0
    """Positions that the decode rows look back on, summed."""
    prefill_tokens: int = 0
    prefix_products: int = 0
    """Sum over prefill segments of rows × the position of the first one."""


class StepCost(NamedTuple):
    """Seconds per unit of each term."""

    base: float
    decode_row: float
    context_token: float
    prefill_token: float
    prefix_product: float

    def seconds(self, shape: StepShape) -> float:
        """Predicted time of one micro-batch on this stage."""
        return (
            self.base
            + self.decode_row * shape.decode_rows
            + self.context_token * shape.context_tokens
            + self.prefill_token * shape.prefill_tokens
            + self.prefix_product * shape.prefix_products
        )


PRIOR = StepCost(base=0.02, decode_row=0.001, context_token=1e-7, prefill_token=0.001, prefix_product=1e-7)
"""A 135M model on one CPU core, roughly. Only ratios matter until reports come, which is within a few steps."""

FORGETTING = 0.995
"""Weight that an observation keeps per later one: about 200 steps count."""
PRIOR_WEIGHT = 0.01
"""Weight of the prior, scaled to the machine's speed, against one observation; decides terms that were never seen."""
FIT_EVERY = 16
"""Observations of a stage between fits; the first ones are fitted at 1, 2, 4 and 8."""
OUTLIER = 8.0
"""A busy time above so many predicted ones is the machine's, not the step's; it counts as this many."""
_UNITS = np.array([1.0, 16.0, 4096.0, 64.0, 16384.0])
"""Sizes of the five terms that make them comparable, so that the normal equations are well conditioned."""


class _StageFit:
    """Normal equations of one stage, in scaled units."""

    def __init__(self, prior: StepCost) -> None:
        self.cost = prior
        self._first = prior
        self._speed_ratio = 0.0
        """Sum of observed over prior seconds, forgetting as the rest does."""
        self._weight = 0.0
        self._prior = np.array(prior) * _UNITS
        self._products = np.zeros((5, 5))
        self._targets = np.zeros(5)
        self._count = 0

    def observe(self, shape: StepShape, seconds: float) -> bool:
        """Take one observation; says whether the cost was fitted anew."""
        if self._count >= FIT_EVERY:
            seconds = min(seconds, OUTLIER * self.cost.seconds(shape))
        row = np.array((1, *shape)) / _UNITS
        # Relative errors are what balance needs: a step ten times as long may be wrong by ten times as much.
        row /= max(seconds, 1e-6)
        self._speed_ratio = FORGETTING * self._speed_ratio + seconds / self._first.seconds(shape)
        self._weight = FORGETTING * self._weight + 1.0
        self._products *= FORGETTING
        self._products += np.outer(row, row)
        self._targets *= FORGETTING
        self._targets += row
        self._count += 1
        is_due = self._count % FIT_EVERY == 0 or self._count in (1, 2, 4, 8)
        if is_due:
            self._fit()
        return is_due

    def _fit(self) -> None:
        prior = self._prior * (self._speed_ratio / self._weight)
        weights = PRIOR_WEIGHT / np.maximum(prior, 1e-12) ** 2
        used = np.ones(5, dtype=bool)
        solution = np.zeros(5)
        while used.any():
            products = self._products[np.ix_(used, used)] + np.diag(weights[used])
            targets = self._targets[used] + weights[used] * prior[used]
            solution[:] = 0.0
            solution[used] = np.linalg.solve(products, targets)
            negative = solution < 0.0
            if not negative.any():
                break
            used &= ~negative
        self.cost = StepCost(*(solution / _UNITS).tolist())


class StepTimePredictor:
    """Costs of each of ``num_stages`` stages."""

    def __init__(self, num_stages: int) -> None:
        self._fits = [_StageFit(PRIOR) for _ in range(num_stages)]
        self._sum_up()

    @property
    def num_stages(self) -> int:
        """Pipeline stages."""
        return len(self._fits)

    def observe(self, shape: StepShape, report: StepReport) -> None:
        """Learn from the busy time of one stage's step."""
        if self._fits[report.stage].observe(shape, report.busy):
            self._sum_up()

    def costs(self) -> list[StepCost]:
        """Of every stage, in order."""
        return [fit.cost for fit in self._fits]

    @property
    def total(self) -> StepCost:
        """Sum over the stages: what balance between slots goes by."""
        return self._total

    def slowest(self, shape: StepShape) -> float:
        """Seconds of the slowest stage: what a micro-batch adds to a full pipeline's time."""
        return max(fit.cost.seconds(shape) for fit in self._fits)

    def _sum_up(self) -> None:
        self._total = StepCost(*(sum(terms) for terms in zip(*self.costs(), strict=True)))
