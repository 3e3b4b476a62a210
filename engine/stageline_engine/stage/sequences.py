"""Tokens and block tables of the sequences that a stage holds, in arrays, so that a micro-batch is built by indexing.

Each sequence has a line of each array. Lines are used again; arrays grow when lines or columns do not suffice.

Dimensions: N sequences, C blocks, L tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from stageline_engine.core.messages import AdmitSequence, SampledToken

IntArray = npt.NDArray[np.int64]


class SequenceStore:
    """What a stage mirrors of the scheduler's decisions.

    An admission takes effect with the first plan that gives its sequence blocks. So it may come as early as it likes:
    also while plans wait that still mean an earlier life of the same sequence, ended by a preemption.

    Args:
        num_sequences: to make room for at first.
    """

    def __init__(self, num_sequences: int) -> None:
        self._line_of: dict[int, int] = {}
        self._admitted: dict[int, AdmitSequence] = {}
        self._free = list(range(num_sequences))
        self._tables_NC: IntArray = np.zeros((num_sequences, 16), np.int64)
        self._num_blocks_N: IntArray = np.zeros(num_sequences, np.int64)
        self._tokens_NL: IntArray = np.zeros((num_sequences, 256), np.int64)
        self._num_tokens_N: IntArray = np.zeros(num_sequences, np.int64)
        self._first_step_N: IntArray = np.zeros(num_sequences, np.int64)

    def admit(self, admission: AdmitSequence) -> None:
        """Keep an admission until a plan gives its sequence blocks."""
        self._admitted[admission.seq] = admission

    def forget(self, seq: int) -> None:
        """Free the line of a sequence that a plan gave blocks."""
        line = self._line_of.pop(seq, None)
        assert line is not None, f"told to forget sequence {seq}, which has no blocks here"
        self._num_blocks_N[line] = self._num_tokens_N[line] = 0
        self._free.append(line)

    def append_blocks(self, seq: int, blocks: list[int], step: int) -> AdmitSequence | None:
        """Append to a block table. Returns the sequence's admission if it begins to live with this, else None."""
        line = self._line_of.get(seq)
        admission = None
        if line is None:
            line = self._line_of[seq] = self._take_line()
            self._first_step_N[line] = step
            admission = self._admitted.pop(seq, None)
            if admission is not None:
                self._append_tokens(line, admission.token_ids)
        start = int(self._num_blocks_N[line])
        self._tables_NC = _with_columns(self._tables_NC, start + len(blocks))
        self._tables_NC[line, start : start + len(blocks)] = blocks
        self._num_blocks_N[line] = start + len(blocks)
        return admission

    def append_sampled(self, sampled: Sequence[SampledToken], step: int) -> list[SampledToken]:
        """Append the tokens of a step's result; drops and leaves out those of sequences forgotten since.

        A sequence that lives again was admitted with these tokens, so those of steps before its life are dropped too.
        """
        living = [token for token in sampled if token.seq in self._line_of]
        lines = self.lines([token.seq for token in living])
        is_own = self._first_step_N[lines] <= step
        if not is_own.all():
            living = [token for token, own in zip(living, is_own, strict=True) if own]
            lines = lines[is_own]
        if living:
            ends = self._num_tokens_N[lines]
            self._tokens_NL = _with_columns(self._tokens_NL, int(ends.max()) + 1)
            self._tokens_NL[lines, ends] = [token.token for token in living]
            self._num_tokens_N[lines] += 1
        return living

    def lines(self, seqs: Sequence[int]) -> IntArray:
        """Lines of sequences that have blocks."""
        line_of = self._line_of
        return np.fromiter((line_of[seq] for seq in seqs), np.int64, len(seqs))

    def tables(self, lines: IntArray) -> IntArray:
        """Block tables [len(lines), C], C being enough for the longest; what is beyond a table's end has no meaning."""
        return self._tables_NC[lines, : int(self._num_blocks_N[lines].max())]

    def segment_tokens(self, lines_N: IntArray, starts_N: IntArray, lengths_N: IntArray) -> IntArray:
        """Tokens of the rows of segments, one segment after the other; all must be known."""
        assert (starts_N + lengths_N <= self._num_tokens_N[lines_N]).all(), "a row reads a token that is not known"
        segment_T = np.repeat(np.arange(len(lines_N)), lengths_N)
        first_row_N = np.cumsum(lengths_N) - lengths_N
        positions_T = starts_N[segment_T] + np.arange(len(segment_T)) - first_row_N[segment_T]
        return self._tokens_NL[lines_N[segment_T], positions_T]

    def _take_line(self) -> int:
        if not self._free:
            count = len(self._num_blocks_N)
            self._free = list(range(count, 2 * count))
            for name in ("_tables_NC", "_num_blocks_N", "_tokens_NL", "_num_tokens_N", "_first_step_N"):
                array = getattr(self, name)
                setattr(self, name, np.concatenate((array, np.zeros_like(array))))
        return self._free.pop()

    def _append_tokens(self, line: int, token_ids: list[int]) -> None:
        self._tokens_NL = _with_columns(self._tokens_NL, len(token_ids))
        self._tokens_NL[line, : len(token_ids)] = token_ids
        self._num_tokens_N[line] = len(token_ids)


def _with_columns(array: IntArray, count: int) -> IntArray:
    """The array itself if it has so many columns, else a copy with at least twice as many as before."""
    if count <= array.shape[1]:
        return array
    wider = np.zeros((array.shape[0], max(count, 2 * array.shape[1])), np.int64)
    wider[:, : array.shape[1]] = array
    return wider
