"""Who gets the blocks: prefixes that are found again, sequences that are admitted, preempted, or outgrow them."""

from __future__ import annotations

from stageline_engine.core.messages import Segment
from stageline_engine.scheduler.scheduler import ScheduledStep, Scheduler
from support.scheduling import make_request, make_scheduler, plan, result_of, run


def test_blocks_end_a_sequence_that_outgrows_them() -> None:
    scheduler = make_scheduler(num_blocks=3, block_size=4)
    scheduler.add(make_request("a", 4, 100), ())
    assert sum(len(step.plan.segments) for step in run(scheduler)) == 5


def test_a_prompt_is_found_again_as_soon_as_it_is_planned() -> None:
    scheduler = make_scheduler(block_size=4, slots=2)
    prompt = list(range(10, 21))
    scheduler.add(make_request("a", prompt, 3), ())
    first = plan(scheduler)
    scheduler.add(make_request("b", prompt, 3), ())
    second = plan(scheduler)
    assert second.plan.segments[-1] == Segment(2, 8, 3, True)
    shared = dict(second.plan.new_blocks)[2][:2]
    assert shared == dict(first.plan.new_blocks)[1][:2]
    scheduler.complete(result_of(first), 0.0)
    (output,) = [output for output in scheduler.complete(result_of(second), 0.0) if output.request_id == "b"]
    assert output.num_cached_tokens == 8
    assert (scheduler.stats().prefix_queries, scheduler.stats().prefix_hits) == (22, 8)


def test_choices_of_one_request_share_its_prompt() -> None:
    """The first choice computes the prompt; the others wait one step and compute a last, unshared piece each."""
    scheduler = make_scheduler(block_size=4, budget=64)
    scheduler.add(make_request("a", 30, 2, n=4), ())
    first, second = plan(scheduler), plan(scheduler)
    assert [(segment.seq, segment.length) for segment in first.plan.segments] == [(1, 30)]
    assert [(segment.seq, segment.start, segment.length) for segment in second.plan.segments[-3:]] == [
        (2, 28, 2), (3, 28, 2), (4, 28, 2),
    ]  # fmt: skip


def test_at_least_one_token_of_a_known_prompt_is_computed() -> None:
    scheduler = make_scheduler(block_size=4)
    for name in "ab":
        scheduler.add(make_request(name, list(range(8)), 1), ())
        (step,) = run(scheduler)
    assert step.plan.segments == [Segment(2, 4, 4, True)]


def test_generated_tokens_are_found_again_too() -> None:
    scheduler = make_scheduler(block_size=4)
    scheduler.add(make_request("a", [1, 2, 3], 7), ())
    run(scheduler)
    scheduler.add(make_request("b", [1, 2, 3, *[100] * 7], 1), ())
    (step,) = run(scheduler)
    assert step.plan.segments == [Segment(2, 8, 2, True)]


def test_the_latest_arrival_is_preempted_and_returns_with_its_tokens_first() -> None:
    scheduler = make_scheduler(num_blocks=5, block_size=4, max_num_seqs=2)
    for name in "abc":
        scheduler.add(make_request(name, [ord(name)] * 4, 8), ())
    steps = run(scheduler)
    assert scheduler.stats().preemptions == 1
    again = [admission for step in steps for admission in step.admissions if admission.seq == 2]
    assert [len(admission.token_ids) for admission in again] == [4, again[1].num_prompt_tokens + 5]
    order = [admission.seq for step in steps for admission in step.admissions]
    assert order == [1, 2, 2, 3]


def test_a_preempted_sequence_returns_only_when_nothing_of_it_is_in_flight() -> None:
    """Its room comes back at once, by an abort; its results and the plan that forgets it do not."""
    scheduler = make_scheduler(num_blocks=7, block_size=4, slots=1)
    for name in "ab":
        scheduler.add(make_request(name, [ord(name)] * 7, 9), ())
    steps = [plan(scheduler)]
    while not steps[-1].plan.finished:
        if (scheduled := scheduler.plan(0.0)) is not None:
            steps.append(scheduled)
        else:
            scheduler.complete(result_of(in_flight(scheduler, steps)[0]), 0.0)
    assert steps[-1].plan.finished == [2]
    assert 2 in {segment.seq for step in in_flight(scheduler, steps) for segment in step.plan.segments}
    scheduler.abort("a")
    while outstanding := in_flight(scheduler, steps):
        assert scheduler.plan(0.0) is None
        scheduler.complete(result_of(outstanding[0]), 0.0)
    back = plan(scheduler)
    assert [(admission.seq, len(admission.token_ids)) for admission in back.admissions] == [(2, 13)]
    assert back.plan.step == steps[-1].plan.step + 1


def in_flight(scheduler: Scheduler, steps: list[ScheduledStep]) -> list[ScheduledStep]:
    return steps[len(steps) - scheduler.stats().steps_in_flight :]


def test_a_long_prompt_at_the_head_is_not_overtaken() -> None:
    scheduler = make_scheduler(num_blocks=11, block_size=4)
    scheduler.add(make_request("a", 4, 12), ())
    plan_of_first = plan(scheduler)
    scheduler.add(make_request("long", 39, 1), ())
    scheduler.add(make_request("short", 1, 1), ())
    scheduler.complete(result_of(plan_of_first), 0.0)
    steps = run(scheduler)
    assert [admission.seq for step in steps for admission in step.admissions] == [2, 3]


def test_admission_leaves_room_for_those_that_run_to_grow() -> None:
    scheduler = make_scheduler(num_blocks=5, block_size=4)
    for name in "ab":
        scheduler.add(make_request(name, 8, 8), ())
    first = plan(scheduler)
    assert [admission.seq for admission in first.admissions] == [1]
    scheduler.complete(result_of(first), 0.0)
    assert [admission.seq for step in run(scheduler) for admission in step.admissions] == [2]
    assert scheduler.stats().preemptions == 0
