"""A model of the stages that executes step plans in order and believes nothing: the scheduler's strictest reader.

It keeps what real stages keep (tokens, block tables, KV), where the "KV" of a position is the identity of the whole
prefix up to it. So a row that would attend to a stale, foreign or missing block is found at once. Tokens come from a
deterministic function of a sequence's own tokens, so that whatever the schedule, outputs must be the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from zlib import crc32

from stageline_engine.core.messages import (
    AdmitSequence,
    PromptLogprobs,
    SampledToken,
    Segment,
    StepPlan,
    StepResult,
    TokenLogprobs,
)
from stageline_engine.scheduler.scheduler import ScheduledStep


def next_token(token_ids: Sequence[int], choice: int, vocab_size: int) -> int:
    """The "model": any function of a sequence's own tokens and choice."""
    return crc32(repr((choice, list(token_ids))).encode()) % vocab_size


def logprob_of(token_ids: Sequence[int], position: int) -> float:
    """The "log probability" of the token at ``position``."""
    return -float(crc32(repr(list(token_ids[: position + 1])).encode()) % 1000)


class _MirroredSequence:
    def __init__(self, admission: AdmitSequence) -> None:
        self.admission = admission
        self.token_ids = list(admission.token_ids)
        self.produced_by = [0] * len(self.token_ids)
        self.prefixes: list[int] = []
        """For each position a number that stands for exactly the tokens up to it."""
        self.table: list[int] = []
        self.next_position: int | None = None


class StageMirror:
    """All stages of a pipeline at once.

    Args:
        num_blocks, block_size, budget, slots: as the scheduler was given them.
        vocab_size: tokens are below it.
    """

    def __init__(self, num_blocks: int, block_size: int, budget: int, slots: int, vocab_size: int = 1000) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.budget = budget
        self.slots = slots
        self.vocab_size = vocab_size
        self.epoch = 1
        self.step = 0
        self.sequences: dict[int, _MirroredSequence] = {}
        self.rows_of: dict[int, list[int]] = {}
        """Steps in which each sequence had rows."""
        self._kv: dict[tuple[int, int], int] = {}
        self._prefixes: dict[tuple[int, int], int] = {}

    def reset(self, epoch: int) -> None:
        """A new epoch: everything is lost."""
        self.epoch = epoch
        self.step = 0
        self.sequences.clear()
        self._kv.clear()

    def execute(self, scheduled: ScheduledStep) -> StepResult:
        """Take admissions and run the plan; checks every claim that they make."""
        plan = scheduled.plan
        self._check_head(plan)
        for seq in plan.finished:
            assert seq in self.sequences, f"told to forget unknown sequence {seq}"
            del self.sequences[seq]
        for admission in scheduled.admissions:
            self._admit(admission, plan)
        self._append_blocks(plan)
        read = [self._write(segment, plan) for segment in plan.segments]
        assert plan.feedback_step == max(read, default=0), f"reads of step {max(read)}, says {plan.feedback_step}"
        for segment in plan.segments:
            self._attend(segment)
        return self._sample(plan)

    def _check_head(self, plan: StepPlan) -> None:
        assert plan.epoch == self.epoch and plan.step == self.step + 1, "a gap in the steps"
        self.step = plan.step
        assert 0 <= plan.slot < self.slots
        assert 1 <= plan.num_rows <= self.budget
        named = [segment.seq for segment in plan.segments]
        assert len(named) == len(set(named)), "a sequence has two segments"
        assert len(plan.finished) == len(set(plan.finished))
        decodes = [self._is_decode(segment) for segment in plan.segments]
        assert decodes == sorted(decodes, reverse=True), "a decode segment behind a prefill segment"

    def _is_decode(self, segment: Segment) -> bool:
        mirrored = self.sequences.get(segment.seq)
        return mirrored is not None and segment.start >= len(mirrored.admission.token_ids)

    def _admit(self, admission: AdmitSequence, plan: StepPlan) -> None:
        assert admission.epoch == self.epoch
        assert admission.seq not in self.sequences, f"sequence {admission.seq} admitted twice"
        assert admission.seq in {segment.seq for segment in plan.segments}, "admitted, but not in the plan"
        assert admission.sampling.seed is not None
        self.sequences[admission.seq] = _MirroredSequence(admission)

    def _append_blocks(self, plan: StepPlan) -> None:
        for seq, blocks in plan.new_blocks:
            assert blocks and all(0 < block < self.num_blocks for block in blocks)
            table = self.sequences[seq].table
            table += blocks
            assert len(table) == len(set(table)), "a block twice in one table"
        named = [seq for seq, _ in plan.new_blocks]
        assert len(named) == len(set(named))

    def _write(self, segment: Segment, plan: StepPlan) -> int:
        """Write the rows' KV; returns the newest step whose token they read."""
        mirrored = self.sequences[segment.seq]
        self.rows_of.setdefault(segment.seq, []).append(plan.step)
        if mirrored.next_position is None:
            assert segment.start % self.block_size == 0 and segment.start < len(mirrored.token_ids)
            assert not segment.start or mirrored.admission.sampling.prompt_logprobs is None, "a hit hides logprobs"
        else:
            assert segment.start == mirrored.next_position, "positions are not continuous"
        end = segment.start + segment.length
        assert segment.length >= 1 and end <= len(mirrored.token_ids), "a row's token does not exist yet"
        assert end <= len(mirrored.table) * self.block_size, "a row has no block"
        mirrored.next_position = end
        self._name_prefixes(mirrored)
        for position in range(segment.start, end):
            block = mirrored.table[position // self.block_size]
            holders = [seq for seq, other in self.sequences.items() if block in other.table]
            assert holders == [segment.seq], f"sequences {holders} hold block {block}, which is written"
            self._kv[block, position % self.block_size] = mirrored.prefixes[position]
        read = mirrored.produced_by[segment.start : end]
        assert max(read) < plan.step
        return max(read)

    def _attend(self, segment: Segment) -> None:
        mirrored = self.sequences[segment.seq]
        for position in range(segment.start + segment.length):
            place = mirrored.table[position // self.block_size], position % self.block_size
            assert self._kv.get(place) == mirrored.prefixes[position], (
                f"sequence {segment.seq} reads a foreign or stale block at position {position}"
            )

    def _sample(self, plan: StepPlan) -> StepResult:
        tokens: list[SampledToken] = []
        prompt_logprobs: list[PromptLogprobs] = []
        for segment in plan.segments:
            mirrored = self.sequences[segment.seq]
            prompt = mirrored.token_ids[: mirrored.admission.num_prompt_tokens]
            end = segment.start + segment.length
            if mirrored.admission.sampling.prompt_logprobs is not None and segment.start + 1 < len(prompt):
                positions = range(segment.start + 1, min(end + 1, len(prompt)))
                logprobs = [TokenLogprobs(logprob_of(prompt, position), 1, [], []) for position in positions]
                prompt_logprobs.append(PromptLogprobs(segment.seq, segment.start + 1, logprobs))
            if segment.samples:
                assert end == len(mirrored.token_ids), "samples a token that exists already"
                token = next_token(mirrored.token_ids, mirrored.admission.choice, self.vocab_size)
                mirrored.token_ids.append(token)
                mirrored.produced_by.append(plan.step)
                limit = mirrored.admission.sampling.max_tokens
                generated = len(mirrored.token_ids) - len(prompt)
                assert limit is None or generated <= limit, "planned past max_tokens"
                tokens.append(SampledToken(segment.seq, token))
        return StepResult(plan.epoch, plan.step, plan.slot, tokens, prompt_logprobs)

    def _name_prefixes(self, mirrored: _MirroredSequence) -> None:
        number = mirrored.prefixes[-1] if mirrored.prefixes else 0
        for token in mirrored.token_ids[len(mirrored.prefixes) :]:
            number = self._prefixes.setdefault((number, token), len(self._prefixes) + 1)
            mirrored.prefixes.append(number)
