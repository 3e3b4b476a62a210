"""How long a choice waited and was prefilled: told with its first output, by the clock that the loop gives."""

from __future__ import annotations

import msgspec

from stageline_engine.core.messages import AddRequest, SampledToken, SequenceOutput, StepResult
from stageline_engine.scheduler.scheduler import Scheduler
from support.scheduling import make_request, make_scheduler


def arriving(name: str, at: float | None, max_tokens: int = 2) -> AddRequest:
    return msgspec.structs.replace(make_request(name, 3, max_tokens), arrived=at)


def step(scheduler: Scheduler, planned: float, returned: float) -> list[SequenceOutput]:
    """One step there and back."""
    scheduled = scheduler.plan(planned)
    assert scheduled is not None
    plan = scheduled.plan
    tokens = [SampledToken(segment.seq, 100) for segment in plan.segments if segment.samples]
    return scheduler.complete(StepResult(plan.epoch, plan.step, plan.slot, tokens), returned)


def test_the_first_output_tells_the_wait_and_the_prefill() -> None:
    scheduler = make_scheduler(max_num_seqs=1)
    scheduler.add(arriving("a", 1.0), ())
    scheduler.add(arriving("b", 2.0), ())
    (first,) = step(scheduler, 4.0, 9.0)
    assert (first.request_id, first.queue_seconds, first.prefill_seconds) == ("a", 3.0, 5.0)
    (second,) = step(scheduler, 9.0, 10.0)
    assert (second.finish_reason, second.queue_seconds, second.prefill_seconds) == ("length", None, None)
    (other,) = step(scheduler, 10.5, 12.0)
    assert (other.request_id, other.queue_seconds, other.prefill_seconds) == ("b", 8.5, 1.5)


def test_a_request_that_was_not_timed_tells_nothing() -> None:
    scheduler = make_scheduler()
    scheduler.add(arriving("a", None, 1), ())
    (only,) = step(scheduler, 4.0, 9.0)
    assert (only.finish_reason, only.queue_seconds, only.prefill_seconds) == ("length", None, None)
