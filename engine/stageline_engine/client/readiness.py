"""Readiness is a token: what an engine core's last word says about whether tokens go through all stages."""

from __future__ import annotations

from stageline_engine.core.messages import EngineStats
from stageline_engine.engine.stats import READY_SECONDS


def why_not_ready(stats: EngineStats, age: float) -> str | None:
    """None when no step is overdue, or, while none is in flight, the last token went through within 5 s.

    Args:
        age: of ``stats``, in seconds; what was old when they were sent is older by as much.
    """
    if age > READY_SECONDS:
        return f"the engine core has said nothing for {age:.1f} s"
    if stats.oldest_step_seconds:
        running, limit = stats.oldest_step_seconds + age, stats.oldest_step_limit
        return f"a step has been running for {running:.1f} s (limit {limit:.1f} s)" if running > limit else None
    silent = stats.seconds_since_token + age
    return f"no token went through all stages for {silent:.1f} s" if silent > READY_SECONDS else None
