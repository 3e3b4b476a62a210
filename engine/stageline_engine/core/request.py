"""What a client asks for, after validation. No tensors, no text: prompts are token ids by now."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from typing import SupportsIndex

import msgspec

from stageline_engine.core.errors import InvalidRequestError
from stageline_engine.core.field_types import checked_struct, typed_fields

MAX_LOGPROBS = 20
"""Largest ``logprobs``/``top_logprobs`` (the OpenAI API's own limit for chat)."""
MAX_CHOICES = 128
"""Largest ``n`` (the OpenAI API's own limit)."""
MAX_STOP = 16
"""Most stop strings, and most stop token ids."""
MAX_LOGIT_BIAS = 1024
"""Most entries of ``logit_bias``."""
MAX_SEED = 2**63 - 1


class SamplingParams(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How the next token is chosen, and when to stop. Names as in the OpenAI API and vLLM."""

    max_tokens: int | None = 16
    """Most tokens to generate; None: as many as fit into the model's length."""
    temperature: float = 1.0
    """0 is greedy; noise is Gumbel-max from (seed, choice, position)."""
    top_p: float = 1.0
    top_k: int = 0
    """0: all tokens."""
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: dict[int, float] = msgspec.field(default_factory=dict)
    seed: int | None = None
    """None: the engine gives one at admission, so that a replay draws the same tokens."""
    n: int = 1
    """Sequences of this request."""
    stop: tuple[str, ...] = ()
    """Stop strings; looked for where text is made, never on a stage."""
    stop_token_ids: tuple[int, ...] = ()
    min_tokens: int = 0
    """Neither end-of-sequence nor a stop token is chosen before so many tokens; stop strings are not looked for."""
    ignore_eos: bool = False
    include_stop_str_in_output: bool = False
    logprobs: int | None = None
    """Top alternatives to report for each generated token; 0: only the chosen token's."""
    prompt_logprobs: int | None = None
    """The same for each prompt token but the first; such a request takes no prefix hits."""
    skip_special_tokens: bool = True

    @property
    def is_greedy(self) -> bool:
        """Whether the choice needs no noise."""
        return self.temperature == 0.0


def checked_prompt(token_ids: Iterable[SupportsIndex], vocab_size: int) -> list[int]:
    """The ids of a program as plain integers (numpy's and torch's are taken too), proven to be in the vocabulary.

    Raises:
        InvalidRequestError: names the first element that is no token id.
    """
    if isinstance(token_ids, str | bytes | bytearray | Mapping) or not isinstance(token_ids, Iterable):
        raise InvalidRequestError("prompt", token_ids, "give a list of token ids")
    ids = [one if type(one) is int else _token_id(one) for one in token_ids]
    validate_prompt(ids, vocab_size)
    return ids


def checked_sampling(params: SamplingParams, vocab_size: int) -> SamplingParams:
    """The parameters of a program with every field of its declared type, and in its range.

    Raises:
        InvalidRequestError: names the field, the value and what is allowed.
    """
    params = typed_fields(checked_struct("params", params, SamplingParams, InvalidRequestError), InvalidRequestError)
    validate_sampling(params, vocab_size)
    return params


def checked_text(field: str, text: str) -> str:
    """The text itself, when it can be written as UTF-8.

    Raises:
        InvalidRequestError: it has a half of a surrogate pair.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequestError(
            field, text[error.start : error.end], "a half of a surrogate pair is no character: leave it out"
        ) from None
    return text


def _token_id(value: SupportsIndex) -> int:
    try:
        if not isinstance(value, bool):
            return operator.index(value)
    except TypeError:
        pass
    raise InvalidRequestError("prompt", value, f"a token id is a whole number, not {type(value).__name__}")


def validate_prompt(token_ids: list[int], vocab_size: int) -> None:
    """Refuse ids that the model's embedding has no row for.

    Raises:
        InvalidRequestError: names the id and the allowed range.
    """
    for token in (min(token_ids, default=0), max(token_ids, default=0)):
        if not 0 <= token < vocab_size:
            raise InvalidRequestError("prompt", token, f"give token ids from 0 to {vocab_size - 1}")


def validate_sampling(params: SamplingParams, vocab_size: int) -> None:
    """Refuse values outside their range.

    Raises:
        InvalidRequestError: names the field, the value and the allowed range.
    """
    _in_range("temperature", params.temperature, 0.0, 2.0)
    _in_range("top_p", params.top_p, 0.0, 1.0, open_low=True)
    _in_range("min_p", params.min_p, 0.0, 1.0)
    _in_range("presence_penalty", params.presence_penalty, -2.0, 2.0)
    _in_range("frequency_penalty", params.frequency_penalty, -2.0, 2.0)
    _in_range("repetition_penalty", params.repetition_penalty, 0.0, 100.0, open_low=True)
    _in_range("top_k", params.top_k, -1, vocab_size)
    _in_range("n", params.n, 1, MAX_CHOICES)
    _in_range("min_tokens", params.min_tokens, 0, 2**31 - 1)
    if params.max_tokens is not None:
        _in_range("max_tokens", params.max_tokens, 0 if params.prompt_logprobs is not None else 1, 2**31 - 1)
        if params.min_tokens > params.max_tokens:
            raise InvalidRequestError("min_tokens", params.min_tokens, f"give at most max_tokens={params.max_tokens}")
    if params.seed is not None:
        _in_range("seed", params.seed, -(2**63), MAX_SEED)
    for field, value in (("logprobs", params.logprobs), ("prompt_logprobs", params.prompt_logprobs)):
        if value is not None:
            _in_range(field, value, 0, MAX_LOGPROBS)
    _check_stops(params, vocab_size)
    if len(params.logit_bias) > MAX_LOGIT_BIAS:
        raise InvalidRequestError("logit_bias", f"{len(params.logit_bias)} entries", f"give at most {MAX_LOGIT_BIAS}")
    for token, bias in params.logit_bias.items():
        _in_range("logit_bias", token, 0, vocab_size - 1)
        _in_range("logit_bias", bias, -100.0, 100.0)


def _check_stops(params: SamplingParams, vocab_size: int) -> None:
    if len(params.stop) > MAX_STOP:
        raise InvalidRequestError("stop", f"{len(params.stop)} strings", f"give at most {MAX_STOP}")
    for text in params.stop:
        if not checked_text("stop", text):
            raise InvalidRequestError("stop", text, "a stop string has at least one character")
    if len(params.stop_token_ids) > MAX_STOP:
        raise InvalidRequestError("stop_token_ids", f"{len(params.stop_token_ids)} ids", f"give at most {MAX_STOP}")
    for token in params.stop_token_ids:
        _in_range("stop_token_ids", token, 0, vocab_size - 1)


def _in_range(field: str, value: float, low: float, high: float, *, open_low: bool = False) -> None:
    # Not a number fails every comparison.
    if not low <= value <= high or (open_low and value == low):
        start = "above" if open_low else "from"
        raise InvalidRequestError(field, value, f"give a number {start} {low} to {high}")
