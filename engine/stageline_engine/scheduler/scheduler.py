"""The scheduler's door: requests in, step plans out, step results in, sequence outputs out.

Pure: no tensors, no sockets, no clock; the engine loop gives the time. The loop plans as long as it can, sends what it
gets, and hands back each result. At most M + 1 steps are in flight: one in each slot, and one ahead, so that no stage
waits for the head.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from stageline_engine.cache.allocator import BlockAllocator
from stageline_engine.cache.prefix import extend_digests
from stageline_engine.core.errors import InvalidRequestError, OverloadedError
from stageline_engine.core.messages import AddRequest, SequenceOutput, StepPlan, StepReport, StepResult
from stageline_engine.core.sequence import Sequence
from stageline_engine.scheduler.planner import MicroBatch, StepPlanner
from stageline_engine.scheduler.predictor import StepShape, StepTimePredictor
from stageline_engine.scheduler.results import take_result
from stageline_engine.scheduler.slots import SlotTable
from stageline_engine.scheduler.state import SchedulerState
from stageline_engine.scheduler.throttle import PrefillThrottle
from stageline_engine.scheduler.types import PROBE_PREFIX, ScheduledStep, SchedulerLimits, SchedulerStats, StepRecord

__all__ = ["ScheduledStep", "Scheduler", "SchedulerLimits", "SchedulerStats"]

REMEMBERED_SHAPES = 256
"""Steps whose shape is kept for reports that come later than the result."""


class Scheduler:
    """Decides every micro-batch of a pipeline replica.

    Args:
        limits: resolved limits.
        allocator: owner of the KV blocks; the scheduler is its only user.
        predictor: step times, one fit for each stage; learns from :meth:`observe`.
        epoch: generation that plans carry.
        num_stages: pipeline stages.
    """

    def __init__(
        self,
        limits: SchedulerLimits,
        allocator: BlockAllocator,
        predictor: StepTimePredictor,
        epoch: int = 1,
        num_stages: int = 1,
    ) -> None:
        assert predictor.num_stages == num_stages, "the predictor has one fit for each stage"
        self._limits = limits
        self._epoch = epoch
        self._predictor = predictor
        self._state = SchedulerState(allocator, SlotTable(limits.slots, predictor), limits.max_num_seqs)
        throttle = PrefillThrottle(limits.max_num_batched_tokens, limits.slots, predictor)
        self._planner = StepPlanner(self._state, throttle, limits.max_num_batched_tokens)
        self._next_seq = 1
        self._step = 0
        self._steps_before_epoch = 0
        self._in_flight: OrderedDict[int, StepRecord] = OrderedDict()
        self._early: dict[int, StepResult] = {}
        self._shapes: OrderedDict[int, StepShape] = OrderedDict()
        self._slot_seconds = [0.0] * limits.slots

    @property
    def epoch(self) -> int:
        """Generation that plans carry."""
        return self._epoch

    @property
    def has_work(self) -> bool:
        """Whether any sequence waits or runs."""
        return bool(self._state.live)

    @property
    def is_idle(self) -> bool:
        """Whether no stage has anything to do: nothing waits or runs, and no step is in flight."""
        return not self._state.live and not self._in_flight

    def add(self, request: AddRequest, eos_token_ids: tuple[int, ...]) -> None:
        """Queue ``sampling.n`` sequences; ``sampling.seed`` is set.

        Raises:
            OverloadedError: ``max_waiting`` sequences wait already.
            InvalidRequestError: the prompt does not fit the model's length or the KV blocks, or the id is in use.
        """
        state, sampling, prompt = self._state, request.sampling, request.prompt_token_ids
        if request.request_id in state.requests:
            raise InvalidRequestError("request_id", request.request_id, "give an id that no open request has")
        longest = self._longest(len(prompt), sampling.max_tokens)
        if len(state.waiting) >= self._limits.max_waiting:
            raise OverloadedError(f"{len(state.waiting)} sequences wait already", self._retry_after())
        digests: list[bytes] = []
        if state.allocator.enable_prefix_caching:
            extend_digests(digests, prompt, state.allocator.block_size)
        for choice in range(sampling.n):
            state.enqueue(
                Sequence(
                    self._next_seq,
                    request.request_id,
                    choice,
                    prompt,
                    sampling,
                    eos_token_ids,
                    longest,
                    list(digests),
                    request.arrived,
                    request.name,
                    request.traced,
                )
            )
            self._next_seq += 1

    def abort(self, request_id: str, choices: list[int] | None = None) -> list[SequenceOutput]:
        """End the named choices (None: all) of a request; ones that ended before are left out."""
        outputs = []
        for sequence in list(self._state.requests.get(request_id, ())):
            if choices is None or sequence.choice in choices:
                self._state.finish(sequence, "abort")
                outputs.append(
                    SequenceOutput(
                        request_id,
                        sequence.choice,
                        [],
                        finish_reason="abort",
                        num_cached_tokens=sequence.num_cached_tokens or 0,
                    )
                )
        return outputs

    def can_plan(self) -> bool:
        """Whether :meth:`plan` is worth calling; it may still give None."""
        return len(self._in_flight) <= self._limits.slots and bool(self._state.live)

    def plan(self, now: float) -> ScheduledStep | None:
        """The next step, to be sent at once; None when nothing can run before another result is back."""
        if not self.can_plan():
            return None
        step = self._step + 1
        batch = self._planner.fill(self._epoch, step, is_idle=not self._in_flight)
        if batch is None:
            return None
        self._step = step
        admitted = [self._state.live[admission.seq] for admission in batch.admissions]
        for sequence in admitted:
            if sequence.admitted_at is None:
                sequence.admitted_at = now
        self._record(batch, now)
        plan = StepPlan(
            epoch=self._epoch,
            step=step,
            slot=batch.slot,
            segments=batch.segments,
            new_blocks=batch.new_blocks,
            finished=self._state.take_to_forget(step),
            feedback_step=batch.feedback_step,
            names=[(sequence.seq, sequence.name) for sequence in admitted],
        )
        return ScheduledStep(batch.admissions, plan, admitted)

    def complete(self, result: StepResult, now: float) -> list[SequenceOutput]:
        """Take a step's result; outputs of the sequences that got a token (or ended) with it.

        A result of another epoch is dropped. One that overtook an older step's is kept until that is back.
        """
        if result.epoch != self._epoch:
            return []
        self._early[result.step] = result
        outputs: list[SequenceOutput] = []
        while (ready := self._early.pop(self._state.completed_step + 1, None)) is not None:
            record = self._in_flight.pop(ready.step)
            outputs += take_result(self._state, record, ready, now)
        return outputs

    def observe(self, report: StepReport) -> None:
        """Learn from how long a stage took; reports may come before or after the step's result."""
        shape = self._shapes.get(report.step) if report.epoch == self._epoch else None
        if shape is not None:
            self._predictor.observe(shape, report)

    def reset(self, epoch: int) -> None:
        """Begin a new epoch: the stages have lost their KV. What ran waits again, with its tokens, in its old order."""
        self._state.restart()
        self._planner.restart()
        self._in_flight.clear()
        self._early.clear()
        self._shapes.clear()
        self._steps_before_epoch += self._step
        self._step = 0
        self._epoch = epoch

    def stats(self) -> SchedulerStats:
        """State at this moment."""
        state = self._state
        oldest = next(iter(self._in_flight.values()), None)
        seconds = [time for time, members in zip(self._slot_seconds, state.slots.members, strict=True) if members]
        mean = sum(seconds) / len(seconds) if seconds else 0.0
        return SchedulerStats(
            epoch=self._epoch,
            num_running=_num_of_clients(state.running.values()),
            num_waiting=_num_of_clients(state.waiting),
            num_blocks=state.allocator.capacity,
            num_free_blocks=state.allocator.num_free,
            prefix_queries=state.prefix_queries,
            prefix_hits=state.prefix_hits,
            preemptions=state.preemptions,
            steps=self._steps_before_epoch + self._step,
            slots=self._limits.slots,
            steps_in_flight=len(self._in_flight),
            slots_in_flight=len({record.slot for record in self._in_flight.values()}),
            imbalance=(max(seconds) - mean) / mean if mean else 0.0,
            oldest_planned_at=oldest.planned_at if oldest else None,
            oldest_predicted_seconds=oldest.predicted_seconds if oldest else 0.0,
        )

    def check(self) -> None:
        """Assert that all books balance; for tests and for finding faults."""
        self._state.check()

    def _longest(self, num_prompt: int, max_tokens: int | None) -> int:
        """Tokens that a sequence may have in the end."""
        allocator, limits = self._state.allocator, self._limits
        if not num_prompt:
            raise InvalidRequestError("prompt", "", "give at least one token")
        capacity = allocator.capacity * allocator.block_size
        generated = 0 if max_tokens == 0 else 1
        # The last token of a sequence is never computed, so it needs no place in a block.
        for fits, what in ((limits.max_model_len, "model's length"), (capacity + generated, "KV blocks' room")):
            if num_prompt + generated > fits:
                remedy = f"the {what} is {fits} tokens, prompt and output together; shorten the prompt"
                raise InvalidRequestError("prompt", f"{num_prompt} tokens", remedy)
        most = limits.max_model_len if max_tokens is None else min(num_prompt + max_tokens, limits.max_model_len)
        return min(most, capacity + generated)

    def _retry_after(self) -> int:
        """Whole seconds until the waiting prompts are computed, by prediction."""
        tokens = sum(len(sequence.token_ids) for sequence in self._state.waiting)
        return min(60, 1 + int(self._predictor.slowest(StepShape(prefill_tokens=tokens))))

    def _record(self, batch: MicroBatch, now: float) -> None:
        shape = batch.shape
        slowest = self._predictor.slowest(shape)
        ahead = sum(record.slowest_seconds for record in self._in_flight.values())
        self._in_flight[batch.step] = StepRecord(
            step=batch.step,
            slot=batch.slot,
            planned_at=now,
            predicted_seconds=ahead + self._predictor.total.seconds(shape),
            slowest_seconds=slowest,
            closing=batch.closing,
        )
        self._slot_seconds[batch.slot] = slowest
        self._shapes[batch.step] = shape
        if len(self._shapes) > REMEMBERED_SHAPES:
            self._shapes.popitem(last=False)


def _num_of_clients(sequences: Iterable[Sequence]) -> int:
    return sum(not sequence.request_id.startswith(PROBE_PREFIX) for sequence in sequences)
