"""What a step's result changes: tokens known, sequences ended, rows moved to a lighter slot."""

from __future__ import annotations

from stageline_engine.core.messages import SampledToken, SequenceOutput, StepResult
from stageline_engine.core.sequence import Sequence
from stageline_engine.scheduler.state import SchedulerState
from stageline_engine.scheduler.types import StepRecord


def take_result(state: SchedulerState, record: StepRecord, result: StepResult, now: float) -> list[SequenceOutput]:
    """Book the result of the oldest step in flight. Tokens of sequences that ended meanwhile are dropped."""
    state.completed_step = record.step
    for chunk in result.prompt_logprobs:
        if (sequence := state.live.get(chunk.seq)) is not None:
            sequence.store_prompt_logprobs(chunk)
    outputs = []
    going_on = []
    for sampled in result.tokens:
        sequence = state.live.get(sampled.seq)
        if sequence is None:
            continue
        outputs.append(_take_token(state, sequence, sampled, record.step, now))
        if sequence.slot is not None:
            going_on.append(sequence)
    for sequence in record.closing:
        if sequence.finish_reason is None:
            state.finish(sequence, "length")
            queued, prefilled = sequence.take_times(now)
            outputs.append(
                SequenceOutput(
                    sequence.request_id,
                    sequence.choice,
                    [],
                    finish_reason="length",
                    num_cached_tokens=sequence.num_cached_tokens or 0,
                    prompt_logprobs=sequence.take_prompt_logprobs(),
                    queue_seconds=queued,
                    prefill_seconds=prefilled,
                )
            )
    state.slots.rebalance(record.slot, going_on)
    return outputs


def _take_token(
    state: SchedulerState, sequence: Sequence, sampled: SampledToken, step: int, now: float
) -> SequenceOutput:
    assert sequence.pending[:1] == [step], f"sequence {sequence.seq} sampled nothing in step {step}"
    del sequence.pending[0]
    reason, stop_token = sequence.accept(sampled.token)
    if sequence.is_running:
        state.register_full_blocks(sequence)
    if reason is not None:
        state.finish(sequence, reason)
    queued, prefilled = sequence.take_times(now)
    return SequenceOutput(
        sequence.request_id,
        sequence.choice,
        [sampled.token],
        logprobs=[sampled.logprobs] if sampled.logprobs is not None else [],
        finish_reason=reason,
        stop_reason=stop_token,
        num_cached_tokens=sequence.num_cached_tokens or 0,
        prompt_logprobs=sequence.take_prompt_logprobs(),
        queue_seconds=queued,
        prefill_seconds=prefilled,
    )
