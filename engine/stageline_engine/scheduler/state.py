"""Books of the scheduler: which sequences live, run and wait, and who holds blocks. Life of a sequence:

    enqueue → waiting → admit → prefilling → decoding in a slot → finish
                 ↑                 └──── preempt ────┘
                 └─────────────────────────┘

Stages learn of an end or a preemption from the next plan (``to_forget``). A preempted sequence comes back only when
nothing of it is in flight and the plan that made the stages forget it has returned.
"""

from __future__ import annotations

from bisect import insort

from stageline_engine.cache.allocator import BlockAllocator
from stageline_engine.cache.prefix import extend_digests
from stageline_engine.core.sequence import Sequence
from stageline_engine.scheduler.slots import SlotTable


def _by_arrival(sequence: Sequence) -> int:
    return sequence.seq


class SchedulerState:
    """All sequences and their places. Methods keep the books of slots, blocks and queues consistent."""

    def __init__(self, allocator: BlockAllocator, slots: SlotTable, max_num_seqs: int) -> None:
        self.allocator = allocator
        self.slots = slots
        self.max_num_seqs = max_num_seqs
        self.live: dict[int, Sequence] = {}
        self.requests: dict[str, list[Sequence]] = {}
        self.waiting: list[Sequence] = []
        """By arrival; preempted ones arrived before every new one, so they are in front."""
        self.running: dict[int, Sequence] = {}
        self.prefilling: list[Sequence] = []
        """By arrival."""
        self.to_forget: list[Sequence] = []
        self.completed_step = 0
        """Newest step whose result was taken."""
        self.preemptions = 0
        self.prefix_queries = 0
        self.prefix_hits = 0

    def enqueue(self, sequence: Sequence) -> None:
        """Take a new sequence; it waits behind all others."""
        self.live[sequence.seq] = sequence
        self.requests.setdefault(sequence.request_id, []).append(sequence)
        self.waiting.append(sequence)

    def can_admit(self) -> bool:
        """Whether the first waiting sequence can run now. No other may overtake it, so it cannot starve."""
        return bool(self.waiting) and self._has_room_for(self.waiting[0], self._find_hits(self.waiting[0]))

    def admit(self, planned_digests: set[bytes]) -> Sequence | None:
        """Start the first waiting sequence, with blocks for all its tokens; None when it has to wait.

        ``planned_digests`` are of blocks that the plan in the making writes. They can be hit from the next plan on, so
        a sequence that could use one waits for that instead of computing the same again.
        """
        if not self.waiting:
            return None
        sequence = self.waiting[0]
        hits = self._find_hits(sequence)
        missed = sequence.digests[len(hits) : self._most_hits(sequence)]
        if (missed and missed[0] in planned_digests) or not self._has_room_for(sequence, hits):
            return None
        del self.waiting[0]
        num_tokens = len(sequence.token_ids)
        self.allocator.share(hits)
        new = self.allocator.allocate(self.allocator.blocks_for(num_tokens) - len(hits))
        sequence.blocks = hits + new
        sequence.num_registered = len(hits)
        sequence.num_planned = len(hits) * self.allocator.block_size
        if sequence.num_cached_tokens is None:
            sequence.num_cached_tokens = sequence.num_planned
            if sequence.takes_prefix_hits and self.allocator.enable_prefix_caching:
                self.prefix_queries += num_tokens
                self.prefix_hits += sequence.num_planned
        sequence.is_running = sequence.is_on_stages = True
        self.running[sequence.seq] = sequence
        insort(self.prefilling, sequence, key=_by_arrival)
        return sequence

    def make_room(self, sequence: Sequence) -> bool:
        """Free at least one block for ``sequence`` by preempting those that arrived the latest.

        False: it is itself the latest, and has to wait until others end.
        """
        while not self.allocator.num_free:
            latest = self.running[max(self.running)]
            if latest is sequence:
                return False
            self._stop_running(latest)
            insort(self.waiting, latest, key=_by_arrival)
            self.preemptions += 1
        return True

    def register_full_blocks(self, sequence: Sequence) -> None:
        """Tell the prefix cache of the blocks that plans have filled.

        To be called when no planned position's token is unknown: after planning a chunk, or taking a token.
        """
        block_size = self.allocator.block_size
        full = sequence.num_planned // block_size
        if not self.allocator.enable_prefix_caching or full <= sequence.num_registered:
            return
        if len(sequence.digests) < full:
            extend_digests(sequence.digests, sequence.token_ids, block_size)
        for index in range(sequence.num_registered, full):
            self.allocator.register(sequence.blocks[index], sequence.digests[index])
        sequence.num_registered = full

    def finish(self, sequence: Sequence, reason: str) -> None:
        """End a sequence wherever it is; its blocks are free at once, results still in flight are dropped."""
        sequence.finish_reason = reason
        if sequence.is_running:
            self._stop_running(sequence)
        else:
            self.waiting.remove(sequence)
        del self.live[sequence.seq]
        siblings = self.requests[sequence.request_id]
        siblings.remove(sequence)
        if not siblings:
            del self.requests[sequence.request_id]

    def take_to_forget(self, step: int) -> list[int]:
        """Sequences that the stages forget with ``step``."""
        for sequence in self.to_forget:
            sequence.forget_step = step
            sequence.is_on_stages = False
        forgotten = [sequence.seq for sequence in self.to_forget]
        self.to_forget.clear()
        return forgotten

    def restart(self) -> None:
        """Send all that runs back to waiting, with its tokens; the stages have forgotten everything."""
        for sequence in list(self.running.values()):
            self._stop_running(sequence)
            self.waiting.append(sequence)
        self.waiting.sort(key=_by_arrival)
        for sequence in self.waiting:
            sequence.pending.clear()
            sequence.is_on_stages = False
            sequence.last_step = sequence.forget_step = 0
        self.to_forget.clear()
        self.allocator.forget_contents()
        self.completed_step = 0

    def check(self) -> None:
        """Assert that the books balance."""
        self.allocator.check(sequence.blocks for sequence in self.live.values())
        assert len(self.running) + len(self.waiting) == len(self.live), "a sequence is lost or doubled"
        assert self.waiting == sorted(self.waiting, key=_by_arrival), "waiting out of order"
        for slot, members in enumerate(self.slots.members):
            assert all(sequence.slot == slot and sequence.is_running for sequence in members), f"slot {slot}"
            assert self.slots.contexts[slot] == sum(sequence.num_planned for sequence in members), f"slot {slot}"
        placed = [sequence.seq for members in self.slots.members for sequence in members]
        placed += [sequence.seq for sequence in self.prefilling]
        assert len(placed) == len(set(placed)), "a sequence is in two places"
        assert set(placed) <= set(self.running), "a sequence that does not run has a place"

    def _most_hits(self, sequence: Sequence) -> int:
        # At least one token is always computed: its row yields the next one.
        return (len(sequence.token_ids) - 1) // self.allocator.block_size

    def _find_hits(self, sequence: Sequence) -> list[int]:
        if not sequence.takes_prefix_hits or not self.allocator.enable_prefix_caching:
            return []
        extend_digests(sequence.digests, sequence.token_ids, self.allocator.block_size)
        return self.allocator.find(sequence.digests[: self._most_hits(sequence)])

    def _has_room_for(self, sequence: Sequence, hits: list[int]) -> bool:
        newest = max(sequence.last_step, sequence.forget_step)
        if sequence.is_on_stages or newest > self.completed_step or len(self.running) >= self.max_num_seqs:
            return False
        needed = self.allocator.blocks_for(len(sequence.token_ids)) - len(hits)
        # Half of those that run are about to need a block: admitting up to the brim would only cause preemptions.
        return self.allocator.can_allocate(hits, needed, spare=(len(self.running) + 1) // 2)

    def _stop_running(self, sequence: Sequence) -> None:
        if sequence.slot is not None:
            self.slots.leave(sequence)
        elif sequence in self.prefilling:
            self.prefilling.remove(sequence)
        self.allocator.free(sequence.blocks)
        sequence.blocks = []
        sequence.num_planned = sequence.num_registered = 0
        sequence.is_running = False
        del self.running[sequence.seq]
        self.to_forget.append(sequence)
