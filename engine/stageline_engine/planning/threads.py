"""How many CPU threads a rank may use."""

from __future__ import annotations


def default_threads(cores: int, ranks: int) -> int:
    """``cores`` divided among the ranks of one machine, and at least 1."""
    return max(1, cores // ranks)
