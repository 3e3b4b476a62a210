"""From an engine's SequenceOutputs to text: detokenizer, stop strings and finish reason of one choice together.

The API server and the Python API both use it; see :class:`ChoiceAssembler`.
"""

from __future__ import annotations

import msgspec

from stageline_engine.core.messages import SequenceOutput, TokenLogprobs
from stageline_engine.core.request import SamplingParams
from stageline_engine.text.detokenizer import Decoder, Detokenizer
from stageline_engine.text.stop_strings import StopStrings


class ReportedToken(msgspec.Struct, array_like=True):
    """A generated token whose log probabilities may be shown, because its text is out."""

    token_id: int
    logprobs: TokenLogprobs
    offset: int
    """Characters of this choice's text before the token."""
    end: int
    """Characters of the text with which the token's own are whole."""


class TextDelta(msgspec.Struct, kw_only=True):
    """What one SequenceOutput adds to a choice."""

    choice: int
    text: str
    """May be empty while characters or stop strings are undecided."""
    token_ids: list[int]
    """All new tokens, up to and with the one that completes a stop string."""
    logprobs: list[TokenLogprobs]
    """One for each of ``token_ids``, when asked for."""
    reported: list[ReportedToken]
    """For a client's ``logprobs``: follows the text, so it never shows part of a stop string before its time."""
    finish_reason: str | None
    """``stop``, ``length`` or ``abort``; None while the choice runs. When the SequenceOutput had none, a stop string
    was found, and the engine has to be told to abort the choice."""
    stop_reason: int | str | None
    """The stop token id or the stop string that ended the choice; None for end-of-sequence and the rest."""


class ChoiceAssembler:
    """The text of one choice of a request."""

    def __init__(self, tokenizer: Decoder, sampling: SamplingParams) -> None:
        self._detokenizer = Detokenizer(tokenizer, sampling.skip_special_tokens)
        self._stops = StopStrings(sampling.stop, sampling.include_stop_str_in_output)
        self._include_stop = sampling.include_stop_str_in_output
        self._min_tokens = sampling.min_tokens
        self._unreported: list[ReportedToken] = []
        self._num_decoded = 0
        self._num_out = 0
        self.num_tokens = 0
        """Tokens generated so far."""
        self.is_finished = False

    def take(self, output: SequenceOutput) -> TextDelta:
        """Add the output's tokens. Must not be called after a finish reason came out."""
        ended = output.finish_reason is not None
        last = len(output.token_ids) - 1
        pieces: list[str] = []
        num_taken = 0
        for index, token_id in enumerate(output.token_ids):
            num_taken += 1
            self.num_tokens += 1
            start = self._num_decoded
            is_stop_token = index == last and output.finish_reason == "stop"
            if not is_stop_token or self._include_stop:
                pieces.append(self._search(self._detokenizer.push(token_id)))
            if output.logprobs:
                # A token without its whole last character counts as out when that character is.
                end = self._num_decoded + self._detokenizer.has_pending
                self._unreported.append(ReportedToken(token_id, output.logprobs[index], start, end))
            if self._stops.found is not None:
                break
        if ended and self._stops.found is None:
            pieces.append(self._search(self._detokenizer.flush()))
            if self._stops.found is None:
                pieces.append(self._stops.flush())
        return self._delta(output, "".join(pieces), num_taken)

    def _search(self, text: str) -> str:
        self._num_decoded += len(text)
        return self._stops.push(text, searching=self.num_tokens > self._min_tokens) if text else ""

    def _delta(self, output: SequenceOutput, text: str, num_taken: int) -> TextDelta:
        found = self._stops.found
        self._num_out += len(text)
        self.is_finished = found is not None or output.finish_reason is not None
        return TextDelta(
            choice=output.choice,
            text=text,
            token_ids=output.token_ids[:num_taken],
            logprobs=output.logprobs[:num_taken],
            reported=self._report(),
            finish_reason="stop" if found is not None else output.finish_reason,
            stop_reason=found if found is not None else output.stop_reason,
        )

    def _report(self) -> list[ReportedToken]:
        count = len(self._unreported)
        if self._stops.found is not None or not self.is_finished:
            # Tokens that hold any part of what is held back, or of the stop string, are not shown.
            ends = (index for index, token in enumerate(self._unreported) if token.end > self._num_out)
            count = next(ends, count)
        ready, self._unreported = self._unreported[:count], self._unreported[count:]
        return ready
