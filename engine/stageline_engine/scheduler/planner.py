"""Fills one micro-batch: decode rows of a slot first, then prefill tokens.

Rows and the step that they read (M = 2, one sequence in slot 0, steps across):

    step            1     2     3     4     5
    slot            0     1     0     1     0
    row reads             -     1           3        row 5 is planned when 1 is back, while 3 is in flight

At most one row is planned ahead of a token in flight. A row reads a token that is at least ``gap`` steps old, or back
already; a younger one would stall the pipeline until it is sampled.
"""

from __future__ import annotations

from collections.abc import Callable

from stageline_engine.core.messages import AdmitSequence, Segment
from stageline_engine.core.sequence import Sequence
from stageline_engine.scheduler.predictor import StepShape
from stageline_engine.scheduler.state import SchedulerState
from stageline_engine.scheduler.throttle import PrefillThrottle


class MicroBatch:
    """A plan in the making."""

    def __init__(self, epoch: int, step: int, slot: int) -> None:
        self.epoch = epoch
        self.step = step
        self.slot = slot
        self.admissions: list[AdmitSequence] = []
        self.segments: list[Segment] = []
        self.new_blocks: list[tuple[int, list[int]]] = []
        self.closing: list[Sequence] = []
        self.prefilled: list[Sequence] = []
        self.planned_digests: set[bytes] = set()
        self.feedback_step = 0
        self.context_tokens = 0
        self.decode_rows = 0
        self.prefill_tokens = 0
        self.prefix_products = 0

    @property
    def shape(self) -> StepShape:
        """What its time depends on."""
        return StepShape(self.decode_rows, self.context_tokens, self.prefill_tokens, self.prefix_products)


class StepPlanner:
    """Chooses the slot whose turn it is, and its rows.

    Args:
        state: the books; every row that is planned is booked there.
        throttle: how many prefill tokens a micro-batch takes.
        budget: rows of a micro-batch.
    """

    def __init__(self, state: SchedulerState, throttle: PrefillThrottle, budget: int) -> None:
        self._state = state
        self._throttle = throttle
        self._budget = budget
        self._next_slot = 0

    def fill(self, epoch: int, step: int, is_idle: bool) -> MicroBatch | None:
        """The next micro-batch, its rows booked on the sequences; None when nothing can run now.

        ``is_idle``: no step is in flight.
        """
        state, slots = self._state, self._state.slots
        if state.prefilling or state.can_admit():
            batch = MicroBatch(epoch, step, self._next_slot)
            self._add_decodes(batch, self._ready(self._next_slot, step - slots.count)[0])
            self._add_prefills(batch)
            if batch.segments:
                return self._close(batch)
        gap = slots.num_active
        for turn in range(slots.count):
            slot = (self._next_slot + turn) % slots.count
            ready, ahead = self._ready(slot, step - gap)
            # Most of the slot is still ahead: planning the few others now would split its rows for good.
            if not ready or (ahead > len(ready) and not is_idle):
                continue
            batch = MicroBatch(epoch, step, slot)
            self._add_decodes(batch, ready)
            if batch.segments:
                return self._close(batch)
        return None

    def restart(self) -> None:
        """Begin again with slot 0."""
        self._next_slot = 0
        self._throttle.end_burst()

    def _close(self, batch: MicroBatch) -> MicroBatch:
        self._next_slot = (batch.slot + 1) % self._state.slots.count
        # Registered last: a block can be hit by plans after the one that writes it.
        for sequence in batch.prefilled:
            self._state.register_full_blocks(sequence)
        return batch

    def _ready(self, slot: int, newest: int) -> tuple[list[Sequence], int]:
        """Members that can decode reading no token in flight younger than ``newest``, and how many are ahead."""
        ready: list[Sequence] = []
        ahead = 0
        for sequence in self._state.slots.members[slot]:
            pending = sequence.pending
            if not pending:
                ready.append(sequence)
            elif len(pending) > 1:
                ahead += 1
            elif pending[0] <= newest:
                ready.append(sequence)
        return ready, ahead

    def _add_decodes(self, batch: MicroBatch, ready: list[Sequence]) -> None:
        if len(ready) > self._budget:
            ready = sorted(ready, key=lambda sequence: sequence.last_step)[: self._budget]
        # By arrival: whoever is preempted for a row arrived later than it, so has no row in this plan yet.
        ready.sort(key=lambda sequence: sequence.seq)
        state, slot, step, segments = self._state, batch.slot, batch.step, batch.segments
        block_size = state.allocator.block_size
        feedback_step = context = 0
        for sequence in ready:
            if not sequence.is_running:
                continue
            position = sequence.num_planned
            if position == len(sequence.blocks) * block_size:
                if not state.make_room(sequence):
                    continue
                blocks = state.allocator.allocate(1)
                sequence.blocks += blocks
                batch.new_blocks.append((sequence.seq, blocks))
            segments.append(Segment(sequence.seq, position, 1, True))
            if sequence.sample_step > feedback_step:
                feedback_step = sequence.sample_step
            context += position
            sequence.num_planned = position + 1
            sequence.pending.append(step)
            sequence.sample_step = sequence.last_step = step
            state.slots.contexts[slot] += 1
            if len(sequence.token_ids) + len(sequence.pending) >= sequence.max_tokens:
                state.slots.leave(sequence)
        batch.feedback_step = feedback_step
        batch.context_tokens = context
        batch.decode_rows = len(segments)

    def _add_prefills(self, batch: MicroBatch) -> None:
        state = self._state
        room = self._budget - batch.decode_rows
        allowance, weight = self._allowance(batch.slot)
        for sequence in list(state.prefilling):
            if room < 1 or allowance < 1:
                return
            rows, spent = self._add_chunk(batch, sequence, room, allowance, weight)
            room -= rows
            allowance -= spent
        while room >= 1 and allowance >= 1:
            admitted = state.admit(batch.planned_digests)
            if admitted is None:
                break
            batch.admissions.append(_admission(batch.epoch, admitted))
            batch.new_blocks.append((admitted.seq, list(admitted.blocks)))
            rows, spent = self._add_chunk(batch, admitted, room, allowance, weight)
            room -= rows
            allowance -= spent
        if not state.prefilling and not state.can_admit():
            self._throttle.end_burst()

    def _allowance(self, slot: int) -> tuple[float, Callable[[int], float]]:
        """Prefill tokens for this micro-batch, and what a token behind so many positions counts."""
        state, slots = self._state, self._state.slots
        backlog = sum(sequence.num_tokens - sequence.num_planned for sequence in state.prefilling)
        places = state.max_num_seqs - len(state.running)
        backlog += sum(len(sequence.token_ids) for sequence in state.waiting[: max(places, 0)])
        if not slots.num_active:
            return self._throttle.alone(backlog), _flat
        free_share = state.allocator.num_free / max(state.allocator.capacity, 1)
        tokens = self._throttle.beside_decodes(backlog, free_share, slots.load(slot), slots.mean_load())
        return tokens, self._throttle.weight

    def _add_chunk(
        self, batch: MicroBatch, sequence: Sequence, room: int, allowance: float, weight: Callable[[int], float]
    ) -> tuple[int, float]:
        """Plan the next chunk of a prompt, as long as room and allowance permit; returns rows and allowance used."""
        start = sequence.num_planned
        rest = len(sequence.token_ids) - start
        rows = min(rest, room, max(1, int(allowance / weight(start))))
        is_last = rows == rest
        samples = is_last and len(sequence.token_ids) < sequence.max_tokens
        batch.segments.append(Segment(sequence.seq, start, rows, samples))
        batch.prefill_tokens += rows
        batch.prefix_products += rows * start
        batch.prefilled.append(sequence)
        sequence.num_planned = start + rows
        sequence.last_step = batch.step
        full = sequence.num_planned // self._state.allocator.block_size
        batch.planned_digests.update(sequence.digests[sequence.num_registered : full])
        if is_last:
            self._end_prefill(batch, sequence, samples)
        return rows, rows * weight(start)

    def _end_prefill(self, batch: MicroBatch, sequence: Sequence, samples: bool) -> None:
        self._state.prefilling.remove(sequence)
        if not samples:
            batch.closing.append(sequence)
            return
        sequence.pending.append(batch.step)
        sequence.sample_step = batch.step
        if sequence.num_tokens < sequence.max_tokens:
            self._state.slots.join(sequence, batch.slot)


def _flat(prefix: int) -> float:
    """A token counts one wherever it stands."""
    return 1.0


def _admission(epoch: int, sequence: Sequence) -> AdmitSequence:
    return AdmitSequence(
        epoch=epoch,
        seq=sequence.seq,
        token_ids=list(sequence.token_ids),
        num_prompt_tokens=sequence.num_prompt_tokens,
        sampling=sequence.sampling,
        choice=sequence.choice,
        eos_token_ids=sequence.eos_token_ids,
    )
