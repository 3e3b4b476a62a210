"""Token ids to text, one at a time: what comes out, joined, equals decoding all of them at once.

A character can span tokens, and what a token looks like can depend on the one before it (a leading space). So the
last tokens whose text was whole are decoded again, as context, together with those whose text is not whole yet.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

REPLACEMENT = "\ufffd"
MOST_PENDING = 32
"""Tokens without a whole character at their end after which the text goes out as it is: the model writes garbage."""


class Decoder(Protocol):
    """What is needed of a tokenizer."""

    @property
    def special_ids(self) -> frozenset[int]:
        """Ids that ``skip_special_tokens`` leaves out."""

    def decode(self, token_ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """Text of all ids at once."""


class Detokenizer:
    """The text of one sequence; never gives out half a character."""

    def __init__(self, tokenizer: Decoder, skip_special_tokens: bool = True) -> None:
        self._tokenizer = tokenizer
        self._skip = skip_special_tokens
        self._context: list[int] = []
        self._context_text = ""
        self._pending: list[int] = []
        self._num_sent = 0
        """Characters of the decoded context and pending tokens that are out already."""

    @property
    def has_pending(self) -> bool:
        """Whether tokens wait for the rest of their character."""
        return bool(self._pending)

    def push(self, token_id: int) -> str:
        """The text that becomes whole with ``token_id``; may be empty."""
        if self._skip and token_id in self._tokenizer.special_ids:
            return ""
        self._pending.append(token_id)
        text = self._decoded()
        if text.endswith(REPLACEMENT) and len(self._pending) < MOST_PENDING:
            # Only the run of replacement characters at the end can still turn into something else.
            return self._release(text.rstrip(REPLACEMENT))
        return self._complete(text)

    def flush(self) -> str:
        """The text of what is left at the end of the sequence; broken characters come out as U+FFFD."""
        return self._complete(self._decoded()) if self._pending else ""

    def _decoded(self) -> str:
        return self._tokenizer.decode(self._context + self._pending, skip_special_tokens=self._skip)

    def _release(self, text: str) -> str:
        if len(text) <= self._num_sent or not text.startswith(self._context_text):
            return ""
        fresh = text[self._num_sent :]
        self._num_sent = len(text)
        return fresh

    def _complete(self, text: str) -> str:
        alone = self._tokenizer.decode(self._pending, skip_special_tokens=self._skip)
        if text.startswith(self._context_text):
            fresh = text[self._num_sent :]
        else:
            # The pending tokens changed how the context reads, which is out already.
            fresh = alone[max(0, self._num_sent - len(self._context_text)) :]
        if alone:
            self._context, self._context_text, self._num_sent = self._pending, alone, len(alone)
            self._pending = []
        else:
            self._num_sent = len(text)
        return fresh
