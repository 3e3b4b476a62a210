"""Blocks: who holds them, which are found again, and that none is lost."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stageline_engine.cache.allocator import BlockAllocator
from stageline_engine.cache.prefix import extend_digests


def digests_of(token_ids: list[int], block_size: int) -> list[bytes]:
    digests: list[bytes] = []
    extend_digests(digests, token_ids, block_size)
    return digests


def test_the_scratch_block_is_never_given_away() -> None:
    allocator = BlockAllocator(8, 4)
    assert sorted(allocator.allocate(7)) == [1, 2, 3, 4, 5, 6, 7]
    assert allocator.num_free == 0
    with pytest.raises(AssertionError, match="1 blocks wanted, 0 free"):
        allocator.allocate(1)


def test_a_block_cannot_be_freed_twice() -> None:
    allocator = BlockAllocator(8, 4)
    blocks = allocator.allocate(1)
    allocator.free(blocks)
    with pytest.raises(AssertionError, match="freed twice"):
        allocator.free(blocks)


def test_a_digest_names_the_whole_prefix() -> None:
    first, second = digests_of([1, 2, 3, 4, 9, 9], 2)[1:]
    assert digests_of([5, 6, 3, 4], 2)[1] != first
    assert digests_of([1, 2, 3, 4], 2)[1] == first
    assert len({first, second}) == 2
    assert len(digests_of([1, 2, 3], 2)) == 1


def test_digests_grow_as_tokens_become_known() -> None:
    digests = digests_of([1, 2, 3], 2)
    extend_digests(digests, [1, 2, 3, 4, 5, 6], 2)
    assert digests == digests_of([1, 2, 3, 4, 5, 6], 2)


def test_a_prefix_is_shared_and_survives_its_first_owner() -> None:
    allocator = BlockAllocator(8, 2)
    digests = digests_of([1, 2, 3, 4], 2)
    mine = allocator.allocate(2)
    for block, digest in zip(mine, digests, strict=True):
        allocator.register(block, digest)
    assert allocator.find(digests) == mine
    allocator.share(mine)
    allocator.free(mine)
    allocator.check([mine])
    assert allocator.num_free == 5
    allocator.free(mine)
    assert allocator.num_free == 7
    assert allocator.find(digests) == mine
    assert allocator.find(digests_of([1, 2, 9, 9], 2)) == mine[:1]


def test_the_oldest_cached_block_goes_first_and_a_table_goes_from_its_end() -> None:
    allocator = BlockAllocator(4, 1)
    digests = digests_of([1, 2, 3], 1)
    table = allocator.allocate(3)
    for block, digest in zip(table, digests, strict=True):
        allocator.register(block, digest)
    allocator.free(table)
    assert allocator.allocate(1) == [table[2]]
    assert allocator.find(digests) == table[:2]
    assert allocator.find(digests[2:]) == []


def test_hits_that_nobody_holds_count_as_free_only_once() -> None:
    allocator = BlockAllocator(4, 1)
    digests = digests_of([1, 2], 1)
    table = allocator.allocate(2)
    for block, digest in zip(table, digests, strict=True):
        allocator.register(block, digest)
    allocator.free(table)
    hits = allocator.find(digests)
    assert allocator.can_allocate(hits, 1)
    assert not allocator.can_allocate(hits, 2)
    assert not allocator.can_allocate(hits, 1, spare=1)


def test_equal_content_is_findable_once() -> None:
    allocator = BlockAllocator(4, 1)
    digest = digests_of([1], 1)[0]
    first, second = allocator.allocate(2)
    allocator.register(first, digest)
    allocator.register(second, digest)
    allocator.free([second])
    assert allocator.find([digest]) == [first]
    allocator.check([[first]])


def test_without_prefix_caching_nothing_is_remembered() -> None:
    allocator = BlockAllocator(4, 1, enable_prefix_caching=False)
    digest = digests_of([1], 1)[0]
    allocator.register(allocator.allocate(1)[0], digest)
    assert allocator.find([digest]) == []


def test_forgetting_contents_frees_no_block_in_use() -> None:
    allocator = BlockAllocator(4, 1)
    digests = digests_of([1, 2], 1)
    used, unused = allocator.allocate(2)
    allocator.register(used, digests[0])
    allocator.register(unused, digests[1])
    allocator.free([unused])
    allocator.forget_contents()
    assert allocator.find(digests) == []
    allocator.check([[used]])


def test_check_finds_a_leak() -> None:
    allocator = BlockAllocator(4, 1)
    allocator.allocate(1)
    with pytest.raises(AssertionError, match="references"):
        allocator.check([])


@settings(deadline=None)
@given(
    st.integers(2, 12),
    st.lists(
        st.tuples(st.sampled_from(["take", "drop", "forget"]), st.lists(st.integers(0, 1), max_size=6)), max_size=60
    ),
)
def test_books_balance_whatever_happens(num_blocks: int, operations: list[tuple[str, list[int]]]) -> None:
    """Tables of one token a block come and go; a findable block always belongs to exactly its own prefix."""
    allocator = BlockAllocator(num_blocks, 1)
    tables: list[list[int]] = []
    content: dict[int, bytes] = {}
    for kind, tokens in operations:
        if kind == "forget":
            allocator.forget_contents()
        elif kind == "drop" and tables:
            allocator.free(tables.pop(len(tokens) % len(tables)))
        elif kind == "take":
            digests = digests_of(tokens, 1)
            hits = allocator.find(digests)
            assert [content[block] for block in hits] == digests[: len(hits)]
            if allocator.can_allocate(hits, len(tokens) - len(hits)):
                allocator.share(hits)
                new = allocator.allocate(len(tokens) - len(hits))
                for block, digest in zip(new, digests[len(hits) :], strict=True):
                    content[block] = digest
                    allocator.register(block, digest)
                tables.append(hits + new)
        allocator.check(tables)
