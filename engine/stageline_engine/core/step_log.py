"""Which rows of which request each step has: a line per sequence at debug level, in the engine core and on every stage.

With the level off it only keeps the names of the sequences that live, which costs something when one begins and ends.
"""

from __future__ import annotations

import logging

from stageline_engine.core.logs import REQUEST_ID
from stageline_engine.core.messages import StepPlan


class StepLog:
    """Of one process and one epoch; it must see every plan.

    Args:
        verb: what the process does with a step when it calls :meth:`note`.
    """

    def __init__(self, logger: logging.Logger, verb: str) -> None:
        self._logger = logger
        self._verb = verb
        self._names: dict[int, str] = {}

    def note(self, plan: StepPlan) -> None:
        """Take note of a plan, in the order of steps."""
        for seq in plan.finished:
            self._names.pop(seq, None)
        self._names.update(plan.names)
        if self._logger.isEnabledFor(logging.DEBUG):
            self._write(plan)

    def _write(self, plan: StepPlan) -> None:
        for segment in plan.segments:
            fields = {
                REQUEST_ID: self._names.get(segment.seq, ""),
                "step": plan.step,
                "seq": segment.seq,
                "start": segment.start,
                "rows": segment.length,
            }
            self._logger.debug(
                "%s step %d: sequence %d from position %d, %d rows",
                self._verb,
                plan.step,
                segment.seq,
                segment.start,
                segment.length,
                extra=fields,
            )
