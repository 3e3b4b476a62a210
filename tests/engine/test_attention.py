"""Paged attention over random micro-batches equals dense attention over each sequence's whole history.

Dimensions: Q attention heads, N KV heads, D head size, T rows, L positions.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from torch import nn

from stageline_engine.cache.pool import KVLayer, KVPool, block_bytes
from stageline_engine.core.blocks import SCRATCH_BLOCK
from stageline_engine.core.errors import UnsupportedModelError
from stageline_engine.models.attention import paged_attention
from stageline_engine.models.buckets import GroupCosts, split_by_length
from stageline_engine.models.rows import RowBatch, RowLayout

LAYER = 7
HEAD_DIM = 6
CPU = torch.device("cpu")
READ_IN_PLACE_AND_GATHERED = [torch.float32, torch.float64]
"""The two ways in which decode rows are attended, by the dtype that leads to each."""


class _Module(nn.Module):
    layer_idx = LAYER


@dataclass
class _Sequence:
    """What was written for a sequence so far, and where."""

    table: list[int]
    keys: list[torch.Tensor] = field(default_factory=list)
    values: list[torch.Tensor] = field(default_factory=list)

    @property
    def length(self) -> int:
        return sum(key.shape[1] for key in self.keys)


class _Bench:
    """A pool with one layer, sequences in it, and the dense reference beside it."""

    def __init__(
        self,
        window: int | None,
        kv_heads: int = 2,
        group: int = 3,
        softcap: float | None = None,
        block_size: int = 4,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.window, self.kv_heads, self.group, self.softcap = window, kv_heads, group, softcap
        layers = [KVLayer(layer_idx=LAYER, kv_heads=kv_heads, head_dim=HEAD_DIM, sliding_window=window)]
        self.pool = KVPool(layers, 160, block_size, dtype, CPU)
        self.noise = torch.Generator().manual_seed(1)
        self.blocks = iter((torch.randperm(159, generator=self.noise) + 1).tolist())
        self.sequences: list[_Sequence] = []

    def add(self, capacity: int) -> int:
        count = -(-capacity // self.pool.block_size)
        self.sequences.append(_Sequence(list(itertools.islice(self.blocks, count))))
        return len(self.sequences) - 1

    def step(self, segments: list[tuple[int, int]], num_decode: int, costs: GroupCosts | None = None) -> None:
        """Run rows of (sequence, length), and compare them with the reference."""
        layout = RowLayout.of(self.pool)
        if costs is not None:
            layout = RowLayout(layout.block_size, costs, layout.dtype, layout.device)
        starts = [self.sequences[index].length for index, _ in segments]
        longest = max(len(self.sequences[index].table) for index, _ in segments)
        # What is beyond a table's end must not matter.
        tables = np.full((len(segments), longest), 159, np.int64)
        for line, (index, _) in zip(tables, segments, strict=True):
            line[: len(self.sequences[index].table)] = self.sequences[index].table
        lengths = [length for _, length in segments]
        rows = RowBatch(layout, None, np.array(starts), np.array(lengths), tables, num_decode)
        total = sum(lengths)
        # As transformers hands them on: views of [1, T, heads, D].
        query = self._draw(total, self.kv_heads * self.group)
        key, value = self._draw(total, self.kv_heads), self._draw(total, self.kv_heads)
        output, weights = paged_attention(
            _Module(), query, key, value, None, rows=rows, pool=self.pool, scaling=0.4, softcap=self.softcap
        )
        assert weights is None
        assert output.shape == (1, total, self.kv_heads * self.group, HEAD_DIM)
        row = 0
        for (index, length), start in zip(segments, starts, strict=True):
            part = slice(row, row + length)
            self.sequences[index].keys.append(key[0, :, part])
            self.sequences[index].values.append(value[0, :, part])
            expected = self._dense(self.sequences[index], query[0, :, part], start)
            torch.testing.assert_close(output[0, part].transpose(0, 1), expected, atol=2e-6, rtol=1e-5)
            row += length

    def _draw(self, rows: int, heads: int) -> torch.Tensor:
        drawn = torch.randn(1, rows, heads, HEAD_DIM, generator=self.noise, dtype=self.pool.dtype)
        return drawn.transpose(1, 2)

    def _dense(self, sequence: _Sequence, query_QTD: torch.Tensor, start: int) -> torch.Tensor:
        keys_QLD = torch.cat(sequence.keys, 1).repeat_interleave(self.group, 0)
        values_QLD = torch.cat(sequence.values, 1).repeat_interleave(self.group, 0)
        scores_QTL = query_QTD @ keys_QLD.transpose(1, 2) * 0.4
        if self.softcap is not None:
            scores_QTL = self.softcap * torch.tanh(scores_QTL / self.softcap)
        position_T1 = start + torch.arange(query_QTD.shape[1])[:, None]
        at_L = torch.arange(keys_QLD.shape[1])
        hidden_TL = at_L > position_T1
        if self.window is not None:
            hidden_TL |= at_L <= position_T1 - self.window
        return scores_QTL.masked_fill(hidden_TL, float("-inf")).softmax(-1) @ values_QLD


@pytest.mark.parametrize("window", [None, 1, 5, 64])
@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize("dtype", READ_IN_PLACE_AND_GATHERED)
def test_chunks_and_decodes_equal_dense_attention(
    window: int | None, softcap: float | None, dtype: torch.dtype
) -> None:
    bench = _Bench(window, softcap=softcap, dtype=dtype)
    first, second, third = (bench.add(40) for _ in range(3))
    bench.step([(first, 13)], 0)
    bench.step([(first, 1), (second, 3), (third, 9)], 1)
    bench.step([(first, 1), (third, 1), (second, 8)], 2)
    bench.step([(second, 10), (third, 4)], 0)
    for _ in range(6):
        bench.step([(third, 1), (first, 1), (second, 1)], 3)


@pytest.mark.parametrize(("kv_heads", "group"), [(1, 1), (1, 4), (3, 1), (2, 5)])
@pytest.mark.parametrize("dtype", READ_IN_PLACE_AND_GATHERED)
def test_heads_share_kv_heads_in_the_order_of_transformers(kv_heads: int, group: int, dtype: torch.dtype) -> None:
    bench = _Bench(None, kv_heads, group, dtype=dtype)
    one, two = bench.add(20), bench.add(20)
    bench.step([(one, 5), (two, 2)], 0)
    bench.step([(one, 1), (two, 1)], 2)
    bench.step([(one, 1), (two, 3)], 1)


@pytest.mark.parametrize("block_size", [1, 3, 16])
def test_block_sizes(block_size: int) -> None:
    bench = _Bench(6, block_size=block_size)
    sequence = bench.add(30)
    for length in (7, 1, 1, 9, 1, 4):
        bench.step([(sequence, length)], 1 if length == 1 else 0)


@pytest.mark.parametrize("window", [None, 7])
@pytest.mark.parametrize("costs", [GroupCosts(0, 1), GroupCosts(0, 1000), GroupCosts(1000, 3), GroupCosts(2, 9)])
@pytest.mark.parametrize("dtype", READ_IN_PLACE_AND_GATHERED)
def test_however_decode_rows_are_grouped(window: int | None, costs: GroupCosts, dtype: torch.dtype) -> None:
    bench = _Bench(window, dtype=dtype)
    lengths = [1, 30, 2, 31, 17, 3, 30]
    sequences = [bench.add(length + 5) for length in lengths]
    bench.step([(index, length) for index, length in zip(sequences, lengths, strict=True)], 0)
    for _ in range(4):
        bench.step([(index, 1) for index in sequences], len(sequences), costs)


def test_only_float32_on_a_cpu_is_read_in_place() -> None:
    assert [_Bench(None, dtype=dtype).pool.is_readable_in_place for dtype in READ_IN_PLACE_AND_GATHERED] == [
        True,
        False,
    ]


def test_the_scratch_block_can_be_read_and_written_by_many_rows() -> None:
    bench = _Bench(None)
    rows = RowBatch(
        RowLayout.of(bench.pool),
        None,
        np.zeros(3, np.int64),
        np.ones(3, np.int64),
        np.full((3, 1), SCRATCH_BLOCK, np.int64),
        3,
    )
    query, key = bench._draw(3, 6), bench._draw(3, 2)
    output, _ = paged_attention(_Module(), query, key, key, None, rows=rows, pool=bench.pool)
    assert output.isfinite().all()


@pytest.mark.parametrize(
    "asked",
    [{"s_aux": torch.zeros(6)}, {"dropout": 0.1}, {"position_bias": torch.zeros(1)}, {"head_mask": torch.ones(6)}],
)
def test_what_would_change_the_result_is_refused(asked: dict[str, object]) -> None:
    bench = _Bench(None)
    ones = np.ones(1, np.int64)
    rows = RowBatch(RowLayout.of(bench.pool), None, ones - 1, ones, np.ones((1, 1), np.int64), 1)
    query, key = bench._draw(1, 6), bench._draw(1, 2)
    with pytest.raises(UnsupportedModelError, match=next(iter(asked))):
        paged_attention(_Module(), query, key, key, None, rows=rows, pool=bench.pool, **asked)  # type: ignore[arg-type]


def test_a_mask_of_the_model_is_refused() -> None:
    bench = _Bench(None)
    ones = np.ones(1, np.int64)
    rows = RowBatch(RowLayout.of(bench.pool), None, ones - 1, ones, np.ones((1, 1), np.int64), 1)
    query, key = bench._draw(1, 6), bench._draw(1, 2)
    mask = torch.zeros(1, 1, 1, 1)
    with pytest.raises(UnsupportedModelError, match="attention_mask"):
        paged_attention(_Module(), query, key, key, mask, rows=rows, pool=bench.pool)  # type: ignore[arg-type]


def test_one_pool_holds_layers_of_different_shapes() -> None:
    layers = [
        KVLayer(layer_idx=3, kv_heads=2, head_dim=4, sliding_window=None),
        KVLayer(layer_idx=9, kv_heads=1, head_dim=6, sliding_window=5),
    ]
    pool = KVPool(layers, 10, 3, torch.bfloat16, CPU)
    assert pool.num_bytes == 10 * block_bytes(layers, 3, torch.bfloat16) == 10 * 3 * 2 * (2 * 2 * 4 + 2 * 6)
    assert (pool.window_of(3), pool.window_of(9)) == (None, 5)


def test_groups_hold_every_row_once_and_never_copy_more_than_needed() -> None:
    noise = np.random.default_rng(0)
    for _ in range(50):
        counts = noise.integers(1, 40, noise.integers(1, 20))
        costs = GroupCosts(int(noise.integers(0, 60)), int(noise.integers(1, 200)))
        groups = split_by_length(counts, costs)
        assert sorted(np.concatenate(groups).tolist()) == list(range(len(counts)))
        assert all(len(rows) == 1 or len(rows) * counts[rows].max() <= costs.most for rows in groups)


def test_groups_cost_as_little_as_any_split() -> None:
    def cost(groups: list[np.ndarray], counts: np.ndarray, group: int) -> int:
        return int(sum(len(rows) * counts[rows].max() for rows in groups)) + group * len(groups)

    noise = np.random.default_rng(1)
    for _ in range(30):
        counts = np.sort(noise.integers(1, 30, 6))
        least = min(
            cost(np.split(np.arange(6), cuts), counts, 10)
            for size in range(6)
            for cuts in itertools.combinations(range(1, 6), size)
        )
        assert cost(split_by_length(counts, GroupCosts(10, 10**6)), counts, 10) <= least + 10
