"""Readiness is a token: what an engine core's last word says about whether tokens go through all stages."""

from __future__ import annotations

from stageline_engine.core.messages import EngineStats
from stageline_engine.engine.stats import READY_SECONDS


def why_not_ready(stats: EngineStats, age: float) -> str | None:
    """None when a token went through within the last 5 s and no step is overdue; ``age`` of ``stats`` in seconds."""
    if age > READY_SECONDS:
        return f"the engine core has said nothing for {age:.1f} s"
    if stats.oldest_step_seconds > stats.oldest_step_limit:
        return f"a step has been running for {stats.oldest_step_seconds:.1f} s (limit {stats.oldest_step_limit:.1f} s)"
    if stats.oldest_step_seconds == 0 and stats.seconds_since_token + age > READY_SECONDS:
        return f"no token went through all stages for {stats.seconds_since_token + age:.1f} s"
    return None
