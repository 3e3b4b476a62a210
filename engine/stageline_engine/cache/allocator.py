"""Who owns which KV block: integers only. One allocator, in the engine core, decides for every stage.

A block is in exactly one of three places:

    in use    referenced by one or more sequences (more than one only through a prefix hit)
    cached    referenced by none, but its content has a digest and may be hit; the oldest is given away first
    unused    referenced by none, content worthless

Blocks may be given away as soon as the plan that drops them is sent, since stages execute plans in one order.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence

from stageline_engine.core.blocks import NUM_SCRATCH_BLOCKS, SCRATCH_BLOCK


class BlockAllocator:
    """Reference counts, prefix cache and free lists of the blocks ``1 … num_blocks - 1``.

    Args:
        num_blocks: KV blocks of every rank, the scratch block included.
        block_size: tokens of a block.
        enable_prefix_caching: without it no content is remembered.
    """

    def __init__(self, num_blocks: int, block_size: int, enable_prefix_caching: bool = True) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.enable_prefix_caching = enable_prefix_caching
        self._references = [0] * num_blocks
        self._unused = list(range(num_blocks - 1, SCRATCH_BLOCK, -1))
        self._cached: OrderedDict[int, None] = OrderedDict()
        self._block_of: dict[bytes, int] = {}
        self._digest_of: dict[int, bytes] = {}

    @property
    def capacity(self) -> int:
        """Blocks that sequences can hold together."""
        return self.num_blocks - NUM_SCRATCH_BLOCKS

    @property
    def num_free(self) -> int:
        """Blocks that a sequence can get: unused ones and unreferenced cached ones."""
        return len(self._unused) + len(self._cached)

    def blocks_for(self, num_tokens: int) -> int:
        """Blocks that hold ``num_tokens`` positions."""
        return -(-num_tokens // self.block_size)

    def find(self, digests: Sequence[bytes]) -> list[int]:
        """Blocks of the longest known prefix of a digest chain; takes no reference."""
        found: list[int] = []
        for digest in digests:
            block = self._block_of.get(digest)
            if block is None:
                break
            found.append(block)
        return found

    def can_allocate(self, hits: Sequence[int], count: int, spare: int = 0) -> bool:
        """Whether ``count`` blocks beyond ``hits`` can be had with ``spare`` more left free."""
        revived = sum(1 for block in hits if not self._references[block])
        return self.num_free - revived >= count + spare

    def share(self, hits: Sequence[int]) -> None:
        """Take one more reference to each of ``hits`` (from :meth:`find`)."""
        for block in hits:
            if not self._references[block]:
                del self._cached[block]
            self._references[block] += 1

    def allocate(self, count: int) -> list[int]:
        """Take ``count`` blocks of unknown content: unused ones first, then those cached the longest.

        The caller has made sure that so many are free.
        """
        assert count <= self.num_free, f"{count} blocks wanted, {self.num_free} free"
        blocks: list[int] = []
        for _ in range(count):
            if self._unused:
                block = self._unused.pop()
            else:
                block, _ = self._cached.popitem(last=False)
                del self._block_of[self._digest_of.pop(block)]
            self._references[block] = 1
            blocks.append(block)
        return blocks

    def free(self, blocks: Sequence[int]) -> None:
        """Give back one reference to each block of a block table.

        The end of a table goes first into the cache's line, because a prefix is worthless without its beginning.
        """
        for block in reversed(blocks):
            left = self._references[block] - 1
            assert left >= 0, f"block {block} freed twice"
            self._references[block] = left
            if left:
                continue
            if block in self._digest_of:
                self._cached[block] = None
            else:
                self._unused.append(block)

    def register(self, block: int, digest: bytes) -> None:
        """Make a block in use findable: its content is, or by the plans sent so far will be, that of ``digest``.

        When another block has the same content already, that one stays the findable one.
        """
        if self.enable_prefix_caching and digest not in self._block_of:
            self._block_of[digest] = block
            self._digest_of[block] = digest

    def forget_contents(self) -> None:
        """Empty the prefix cache: the KV of at least one stage is lost."""
        self._unused.extend(self._cached)
        self._cached.clear()
        self._block_of.clear()
        self._digest_of.clear()

    def check(self, tables: Iterable[Sequence[int]]) -> None:
        """Assert that the books balance, ``tables`` being the block tables of all sequences."""
        held = Counter(block for table in tables for block in table)
        counted = {block: count for block, count in enumerate(self._references) if count}
        assert counted == dict(held), f"references {counted}, block tables {dict(held)}"
        places = [*held, *self._unused, *self._cached]
        assert sorted(places) == list(range(1, self.num_blocks)), f"blocks lost or doubled: {sorted(places)}"
        assert all(block in self._digest_of for block in self._cached), "a cached block has no digest"
        assert {block: digest for digest, block in self._block_of.items()} == self._digest_of, "digests differ"
        assert SCRATCH_BLOCK not in self._digest_of, "the scratch block has a digest"
