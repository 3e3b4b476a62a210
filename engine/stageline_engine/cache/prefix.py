"""Names for full blocks: a chain of digests over token ids. Pure; used by the scheduler to find equal prefixes.

A block's digest covers its own tokens and, through its parent's digest, every token before it. With 256 bits two
different prefixes never share a name in practice, so equal digests are taken for equal tokens without comparing them.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from hashlib import blake2b

ROOT = b""
"""Parent of the first block."""


def block_digest(parent: bytes, token_ids: Sequence[int]) -> bytes:
    """Digest of one full block that follows ``parent``; token ids are below 2**32."""
    return blake2b(parent + array("I", token_ids).tobytes(), digest_size=32).digest()


def extend_digests(digests: list[bytes], token_ids: Sequence[int], block_size: int) -> None:
    """Append the digests of all full blocks of ``token_ids`` that ``digests`` does not have yet."""
    parent = digests[-1] if digests else ROOT
    for start in range(len(digests) * block_size, len(token_ids) - block_size + 1, block_size):
        parent = block_digest(parent, token_ids[start : start + block_size])
        digests.append(parent)
