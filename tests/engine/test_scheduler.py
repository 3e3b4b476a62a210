"""The scheduler's door: what is refused, what plans say, how sequences end, what is told of them."""

from __future__ import annotations

from itertools import pairwise

import pytest

from stageline_engine.core.errors import InvalidRequestError, OverloadedError
from stageline_engine.core.messages import PromptLogprobs, Segment, StepReport, TokenLogprobs
from support.scheduling import make_request, make_scheduler, plan, result_of, run

EOS = 2


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
