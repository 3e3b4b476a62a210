"""A prompt as part of its own completion (``echo``)."""

from __future__ import annotations

from collections.abc import Sequence

from stageline_engine.core.messages import TokenLogprobs
from stageline_engine.text.detokenizer import Detokenizer
from stageline_engine.text.tokenizer import Tokenizer


class Echo:
    """The text of one prompt.

    Args:
        tokenizer: for the text of the tokens.
        token_ids: the prompt.
        text: as the client wrote it; None when it gave token ids.
    """

    def __init__(self, tokenizer: Tokenizer, token_ids: Sequence[int], text: str | None) -> None:
        self._tokenizer = tokenizer
        self._token_ids = token_ids
        self.text = tokenizer.decode(token_ids) if text is None else text

    def tokens(self, logprobs: Sequence[TokenLogprobs | None]) -> list[tuple[int, TokenLogprobs | None, int]]:
        """(token id, its log probabilities, characters of the text before it) for each token."""
        if not logprobs:
            return []
        detokenizer = Detokenizer(self._tokenizer)
        offset = 0
        found: list[tuple[int, TokenLogprobs | None, int]] = []
        for token_id, at_position in zip(self._token_ids, logprobs, strict=True):
            found.append((token_id, at_position, min(offset, len(self.text))))
            offset += len(detokenizer.push(token_id))
        return found
