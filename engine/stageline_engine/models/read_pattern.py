"""Where in the KV pool the rows of a decode group look, as the indices of torch's sparse operations.

Made once for a group and used by all layers, whose pools have the same shape.

Dimensions: N KV heads, G attention heads that share one, S rows, C blocks, P positions of a block, L = C · P positions
looked at, R = S · N · G rows of scores.
"""

from __future__ import annotations

import warnings

import torch

_MAX_INT32 = 2**31 - 1


class ReadPattern:
    """Lines of a pool's keys (and, alike, of its values) that each row of scores is made of; line = head · positions
    of the pool + place.

    Args:
        blocks_SC: block ids, int64.
        pool_positions: positions of the whole pool, for one head.
    """

    def __init__(
        self, blocks_SC: torch.Tensor, block_size: int, kv_heads: int, shared: int, pool_positions: int
    ) -> None:
        num_lines = kv_heads * pool_positions
        # Half the bytes to read where they suffice: a tenth of the time.
        dtype = torch.int32 if num_lines <= _MAX_INT32 else torch.int64
        places_SL = (blocks_SC.unsqueeze(-1) * block_size + torch.arange(block_size)).flatten(1).to(dtype)
        first_line_N = torch.arange(kv_heads, dtype=dtype) * pool_positions
        lines_SN1L = places_SL[:, None, None, :] + first_line_N[:, None, None]
        num_rows, length = len(blocks_SC) * kv_heads * shared, places_SL.shape[1]
        self.lines = lines_SN1L.expand(-1, -1, shared, -1).reshape(-1)
        """Lines of all rows of scores, one row after the other: [R · L]."""
        self.row_starts = torch.arange(num_rows + 1, dtype=dtype) * length
        """Where in ``lines`` each row begins, and the end: [R + 1]."""
        self.scores = _sparse_zeros(self.row_starts, self.lines, (num_rows, num_lines))
        """[R, lines of the pool], kept only where rows look. Each layer writes its own over those of the one before."""


def _sparse_zeros(row_starts: torch.Tensor, lines: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    with warnings.catch_warnings():
        # torch calls its CSR tensors a beta; the parity tests are what we go by.
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta", category=UserWarning)
        return torch.sparse_csr_tensor(row_starts, lines, torch.zeros(len(lines)), size, check_invariants=False)
