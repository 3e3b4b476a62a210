"""What makes an engine not ready, as its last word and the age of that tell."""

from __future__ import annotations

import msgspec
import pytest

from stageline_engine.client.readiness import why_not_ready
from support.scripted_engine import STATS


@pytest.mark.parametrize(
    ("age", "since_token", "oldest", "limit", "told"),
    [
        (0.1, 0.1, 0.0, 5.0, None),
        (5.1, 0.1, 0.0, 5.0, "the engine core has said nothing for 5.1 s"),
        (0.5, 4.0, 0.0, 5.0, None),
        (0.5, 4.6, 0.0, 5.0, "no token went through all stages for 5.1 s"),
        (0.5, 4.6, 4.0, 5.0, None),
        (0.5, 4.6, 4.6, 5.0, "a step has been running for 5.1 s (limit 5.0 s)"),
        (0.5, 30.0, 30.0, 40.0, None),
        (0.5, 30.0, 39.6, 40.0, "a step has been running for 40.1 s (limit 40.0 s)"),
    ],
)
def test_an_engine_is_ready_while_its_steps_end_in_time(
    age: float, since_token: float, oldest: float, limit: float, told: str | None
) -> None:
    stats = msgspec.structs.replace(
        STATS, seconds_since_token=since_token, oldest_step_seconds=oldest, oldest_step_limit=limit
    )
    assert why_not_ready(stats, age) == told
