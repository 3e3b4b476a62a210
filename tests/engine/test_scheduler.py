"""The scheduler's door: what is refused, what plans say, how sequences end, what is found again."""

from __future__ import annotations

from itertools import pairwise

import pytest

from stageline_engine.core.errors import InvalidRequestError, OverloadedError
from stageline_engine.core.messages import PromptLogprobs, SampledToken, Segment, StepReport, StepResult, TokenLogprobs
from stageline_engine.scheduler.scheduler import ScheduledStep, Scheduler
from support.scheduling import make_request, make_scheduler

EOS = 2


def plan(scheduler: Scheduler) -> ScheduledStep:
    scheduled = scheduler.plan(0.0)
    assert scheduled is not None
    scheduler.check()
    return scheduled


def result_of(scheduled: ScheduledStep, *tokens: int) -> StepResult:
    """Tokens for the segments that sample, in order; missing ones are 100."""
    sampling = [segment.seq for segment in scheduled.plan.segments if segment.samples]
    chosen = [*tokens, *[100] * (len(sampling) - len(tokens))]
    sampled = [SampledToken(seq, token) for seq, token in zip(sampling, chosen, strict=True)]
    return StepResult(scheduled.plan.epoch, scheduled.plan.step, scheduled.plan.slot, sampled)


def run(scheduler: Scheduler) -> list[ScheduledStep]:
    """Until nothing is left; every token is 100."""
    steps = []
    while scheduler.has_work:
        scheduled = plan(scheduler)
        steps.append(scheduled)
        scheduler.complete(result_of(scheduled), 0.0)
        scheduler.check()
    return steps


def test_a_prompt_goes_out_with_its_admission_then_decodes_one_row_ahead() -> None:
    scheduler = make_scheduler()
    scheduler.add(make_request("a", [5, 6, 7], 4), (EOS,))
    first = plan(scheduler)
    assert [(admission.seq, admission.token_ids) for admission in first.admissions] == [(1, [5, 6, 7])]
    assert first.admissions[0].eos_token_ids == (EOS,)
    assert first.plan.segments == [Segment(1, 0, 3, True)]
    assert (first.plan.step, first.plan.slot, first.plan.feedback_step) == (1, 0, 0)
    assert [(seq, len(blocks)) for seq, blocks in first.plan.new_blocks] == [(1, 1)]
    second = plan(scheduler)
    assert second.admissions == []
    assert second.plan.segments == [Segment(1, 3, 1, True)]
    assert (second.plan.feedback_step, second.plan.new_blocks) == (1, [])
    assert not scheduler.can_plan()
    assert scheduler.plan(0.0) is None
    (output,) = scheduler.complete(result_of(first, 50), 0.0)
    assert (output.request_id, output.choice, output.token_ids, output.finish_reason) == ("a", 0, [50], None)
    assert plan(scheduler).plan.feedback_step == 2


def test_nothing_is_planned_past_max_tokens() -> None:
    scheduler = make_scheduler()
    scheduler.add(make_request("a", 3, 2), ())
    first, second = plan(scheduler), plan(scheduler)
    assert scheduler.complete(result_of(first), 0.0)[0].finish_reason is None
    assert scheduler.plan(0.0) is None
    assert scheduler.complete(result_of(second), 0.0)[0].finish_reason == "length"
    assert not scheduler.has_work


@pytest.mark.parametrize(("token", "stop_reason"), [(EOS, None), (9, 9)])
def test_a_stop_ends_the_sequence_and_drops_the_row_ahead(token: int, stop_reason: int | None) -> None:
    scheduler = make_scheduler()
    scheduler.add(make_request("a", 3, 10, stop_token_ids=(9,)), (EOS,))
    scheduler.add(make_request("b", 3, 10), (EOS,))
    first, second = plan(scheduler), plan(scheduler)
    ended, going_on = scheduler.complete(result_of(first, token, 50), 0.0)
    assert (ended.token_ids, ended.finish_reason, ended.stop_reason) == ([token], "stop", stop_reason)
    assert going_on.finish_reason is None
    third = plan(scheduler)
    assert third.plan.finished == [1]
    assert [segment.seq for segment in third.plan.segments] == [2]
    assert [output.request_id for output in scheduler.complete(result_of(second), 0.0)] == ["b"]


def test_ignore_eos_goes_on() -> None:
    scheduler = make_scheduler()
    scheduler.add(make_request("a", 3, 10, ignore_eos=True), (EOS,))
    assert scheduler.complete(result_of(plan(scheduler), EOS), 0.0)[0].finish_reason is None


def test_max_model_len_ends_a_sequence_without_max_tokens() -> None:
    scheduler = make_scheduler(max_model_len=10)
    scheduler.add(make_request("a", 4, None), ())
    assert sum(len(step.plan.segments) for step in run(scheduler)) == 6


def test_blocks_end_a_sequence_that_outgrows_them() -> None:
    scheduler = make_scheduler(num_blocks=3, block_size=4)
    scheduler.add(make_request("a", 4, 100), ())
    assert sum(len(step.plan.segments) for step in run(scheduler)) == 5


@pytest.mark.parametrize(
    ("limits", "num_prompt", "message"),
    [
        ({"max_model_len": 10}, 10, "model's length is 10 tokens"),
        ({"num_blocks": 3, "block_size": 4}, 9, "KV blocks' room is 9 tokens"),
        ({}, 0, "at least one token"),
    ],
)
def test_prompts_that_can_never_run_are_refused(limits: dict[str, int], num_prompt: int, message: str) -> None:
    scheduler = make_scheduler(**limits)  # type: ignore[arg-type]
    with pytest.raises(InvalidRequestError, match=message):
        scheduler.add(make_request("a", num_prompt, 4), ())
    assert not scheduler.has_work


def test_an_open_request_id_is_refused() -> None:
    scheduler = make_scheduler()
    scheduler.add(make_request("a", 3), ())
    with pytest.raises(InvalidRequestError, match="request_id"):
        scheduler.add(make_request("a", 3), ())


def test_a_full_queue_is_refused_until_something_is_admitted() -> None:
    scheduler = make_scheduler(max_waiting=2, max_num_seqs=1)
    for name in "ab":
        scheduler.add(make_request(name, 3), ())
    with pytest.raises(OverloadedError, match="2 sequences wait"):
        scheduler.add(make_request("c", 3), ())
    plan(scheduler)
    scheduler.add(make_request("c", 3), ())
    assert scheduler.stats().num_waiting == 2


def test_abort_frees_everything_at_once_and_tells_the_stages_with_the_next_plan() -> None:
    scheduler = make_scheduler()
    scheduler.add(make_request("a", 40, 10, n=2), ())
    scheduler.add(make_request("b", 3, 10), ())
    first = plan(scheduler)
    (output,) = scheduler.abort("a", [1])
    assert (output.request_id, output.choice, output.finish_reason) == ("a", 1, "abort")
    assert [output.choice for output in scheduler.abort("a")] == [0]
    assert scheduler.abort("a") == []
    scheduler.check()
    on_stages = sorted(segment.seq for segment in first.plan.segments if segment.seq != 3)
    next_plan = plan(scheduler).plan
    assert sorted(next_plan.finished) == on_stages
    assert {segment.seq for segment in next_plan.segments} == {3}
    assert [output.request_id for output in scheduler.complete(result_of(first), 0.0)] in ([], ["b"])


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


def test_prompt_logprobs_take_no_hits_and_come_with_the_first_output() -> None:
    scheduler = make_scheduler(block_size=2, budget=3)
    prompt = [5, 6, 7, 8, 9]
    scheduler.add(make_request("a", prompt, 1), ())
    run(scheduler)
    scheduler.add(make_request("b", prompt, 2, prompt_logprobs=0), ())
    first, second = plan(scheduler), plan(scheduler)
    assert [segment.start for step in (first, second) for segment in step.plan.segments] == [0, 3]
    logprobs = [TokenLogprobs(-float(position), 1, [], []) for position in range(1, 5)]
    early, late = result_of(first), result_of(second)
    seq = first.plan.segments[0].seq
    early.prompt_logprobs.append(PromptLogprobs(seq, 1, logprobs[:3]))
    late.prompt_logprobs.append(PromptLogprobs(seq, 4, logprobs[3:]))
    assert scheduler.complete(early, 0.0) == []
    (output,) = scheduler.complete(late, 0.0)
    assert output.prompt_logprobs == [None, *logprobs]
    assert scheduler.complete(result_of(plan(scheduler)), 0.0)[0].prompt_logprobs == []


def test_prompt_logprobs_alone_need_no_sampled_token() -> None:
    scheduler = make_scheduler(max_model_len=8)
    scheduler.add(make_request("a", 8, 0, prompt_logprobs=0), ())
    step = plan(scheduler)
    assert step.plan.segments == [Segment(1, 0, 8, False)]
    (output,) = scheduler.complete(result_of(step), 0.0)
    assert (output.token_ids, output.finish_reason, len(output.prompt_logprobs)) == ([], "length", 8)
    assert not scheduler.has_work


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


def test_results_that_overtake_wait_and_old_epochs_are_dropped() -> None:
    scheduler = make_scheduler()
    scheduler.add(make_request("a", 3, 5), ())
    first, second = plan(scheduler), plan(scheduler)
    assert scheduler.complete(result_of(second, 12), 0.0) == []
    assert [output.token_ids for output in scheduler.complete(result_of(first, 11), 0.0)] == [[11], [12]]
    stale = result_of(plan(scheduler))
    scheduler.reset(2)
    assert scheduler.complete(stale, 0.0) == []


def test_reset_starts_over_with_the_tokens_so_far() -> None:
    scheduler = make_scheduler(block_size=2)
    scheduler.add(make_request("a", [5, 6, 7], 10), ())
    first = plan(scheduler)
    plan(scheduler)
    scheduler.complete(result_of(first, 50), 0.0)
    scheduler.reset(2)
    scheduler.check()
    again = plan(scheduler)
    assert (again.plan.epoch, again.plan.step, again.plan.finished) == (2, 1, [])
    assert again.admissions[0].token_ids == [5, 6, 7, 50]
    assert again.plan.segments == [Segment(1, 0, 4, True)]
    assert scheduler.stats().steps == 3


def test_stats_tell_the_oldest_step_and_the_slots() -> None:
    scheduler = make_scheduler(stages=2)
    stats = scheduler.stats()
    assert (stats.oldest_planned_at, stats.oldest_predicted_seconds) == (None, 0.0)
    for name in "ab":
        scheduler.add(make_request(name, 8, 10), ())
    first = scheduler.plan(1.0)
    second = scheduler.plan(2.0)
    assert first is not None
    assert second is not None
    scheduler.complete(result_of(first), 3.0)
    stats = scheduler.stats()
    assert stats.oldest_planned_at == 2.0
    assert stats.oldest_predicted_seconds > 0
    assert (stats.num_running, stats.slots, stats.steps_in_flight, stats.slots_in_flight) == (2, 1, 1, 1)
    assert stats.num_free_blocks == stats.num_blocks - 2


def test_reports_reach_the_predictor_before_and_after_the_result() -> None:
    scheduler = make_scheduler()
    scheduler.add(make_request("a", 8, 1000), ())
    before = plan(scheduler)
    slow = scheduler.stats().oldest_predicted_seconds
    for _ in range(64):
        scheduler.observe(StepReport(1, before.plan.step, 0, 10 * slow, 0.0, 0.0, 0.0, 0.0, 0))
        scheduler.complete(result_of(before), 0.0)
        scheduler.observe(StepReport(1, before.plan.step, 0, 10 * slow, 0.0, 0.0, 0.0, 0.0, 0))
        scheduler.observe(StepReport(99, before.plan.step, 0, 0.0, 0.0, 0.0, 0.0, 0.0, 0))
        before = plan(scheduler)
    assert scheduler.stats().oldest_predicted_seconds > 5 * slow


def test_a_step_never_exceeds_the_budget_and_rows_take_turns() -> None:
    scheduler = make_scheduler(budget=4, max_num_seqs=10)
    for number in range(10):
        scheduler.add(make_request(f"r{number}", 1, 12), ())
    steps = run(scheduler)
    assert max(step.plan.num_rows for step in steps) == 4
    assert len(steps) <= 10 * 12 // 4 + 8
    for seq in range(1, 11):
        turns = [step.plan.step for step in steps if seq in {segment.seq for segment in step.plan.segments}]
        assert max(later - earlier for earlier, later in pairwise(turns)) <= 6


def test_admission_leaves_room_for_those_that_run_to_grow() -> None:
    scheduler = make_scheduler(num_blocks=5, block_size=4)
    for name in "ab":
        scheduler.add(make_request(name, 8, 8), ())
    first = plan(scheduler)
    assert [admission.seq for admission in first.admissions] == [1]
    scheduler.complete(result_of(first), 0.0)
    assert [admission.seq for step in run(scheduler) for admission in step.admissions] == [2]
    assert scheduler.stats().preemptions == 0
