"""The fields that /v1/completions and /v1/chat/completions share, and their way to SamplingParams."""

from __future__ import annotations

import re
from typing import Annotated

import msgspec
from pydantic import BeforeValidator, Field

from stageline_engine.core.errors import InvalidRequestError
from stageline_engine.core.request import MAX_LOGIT_BIAS, MAX_STOP, SamplingParams, validate_sampling
from stageline_engine.server import limits
from stageline_engine.server.errors import ApiError
from stageline_engine.server.fields import StrictModel, Unsupported


class StreamOptions(StrictModel):
    """What a stream shows besides the text."""

    include_usage: bool | None = None
    """A last chunk with the whole request's usage."""
    continuous_usage_stats: bool | None = None
    """vLLM: usage so far in every chunk."""


def _stop_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _biases(value: object) -> object:
    if not isinstance(value, dict):
        return value
    if len(value) > MAX_LOGIT_BIAS:
        raise ValueError(f"give at most {MAX_LOGIT_BIAS} entries")
    # JSON has only texts as keys.
    if not all(_TOKEN_ID.fullmatch(key) for key in value):
        raise ValueError("keys are token ids")
    return {int(key): bias for key, bias in value.items()}


def _pairs(value: object) -> object:
    if isinstance(value, dict) and len(value) > limits.MAX_METADATA:
        raise ValueError(f"give at most {limits.MAX_METADATA} entries")
    return value


_TOKEN_ID = re.compile("[0-9]{1,10}")
StopString = Annotated[str, Field(min_length=1, max_length=limits.MAX_STOP_CHARACTERS)]
# The first wrong entry ends the check: a list of millions must not make millions of errors.
StopStrings = Annotated[list[StopString], Field(max_length=MAX_STOP, fail_fast=True)]

NO_EFFECT = {
    "service_tier": Unsupported("there is one tier only: give auto or default", ("auto", "default")),
    "store": Unsupported("nothing is stored: leave it false", (False,)),
}


_SAME_NAMES = (
    "n",
    "temperature",
    "top_p",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "logit_bias",
    "seed",
    "min_tokens",
    "ignore_eos",
    "include_stop_str_in_output",
    "skip_special_tokens",
)
"""Fields that SamplingParams has under the same name."""


class SamplingFields(StrictModel):
    """Shared fields. None is the same as leaving a field out."""

    model: str | None = None
    """The served name; may be left out, as there is one model only."""
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: Annotated[dict[int, float] | None, BeforeValidator(_biases)] = None
    seed: int | None = None
    stop: Annotated[StopStrings | None, BeforeValidator(_stop_list)] = None

    # No effect by nature: they name the caller, for the caller's own books.
    user: str | None = None
    metadata: Annotated[dict[str, str] | None, BeforeValidator(_pairs)] = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None

    # vLLM's.
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    stop_token_ids: Annotated[list[int], Field(max_length=MAX_STOP, fail_fast=True)] | None = None
    min_tokens: int | None = None
    ignore_eos: bool | None = None
    include_stop_str_in_output: bool | None = None
    skip_special_tokens: bool | None = None
    prompt_logprobs: int | None = None

    @property
    def wants_usage(self) -> bool:
        """Whether the stream ends with a usage chunk."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    @property
    def wants_continuous_usage(self) -> bool:
        """Whether every chunk tells the usage so far."""
        return self.wants_usage and self.stream_options is not None and bool(self.stream_options.continuous_usage_stats)

    def check_stream(self) -> None:
        """Refuse what does not go together with ``stream``.

        Raises:
            ApiError: 400.
        """
        if self.stream_options is not None and not self.stream:
            raise ApiError(
                400, "stream_options: only allowed with stream=true", param="stream_options", code="invalid_value"
            )
        if self.stream and self.prompt_logprobs is not None:
            raise ApiError(
                400,
                "prompt_logprobs: not given in streams; leave stream out",
                param="prompt_logprobs",
                code="invalid_value",
            )

    def sampling(
        self,
        vocab_size: int,
        *,
        max_tokens: int | None,
        logprobs: int | None,
        prompt_logprobs: int | None,
        names: dict[str, str],
    ) -> SamplingParams:
        """Validated parameters for the engine.

        Args:
            vocab_size: one more than the largest token id.
            max_tokens: most tokens to generate; None: as many as fit.
            logprobs: alternatives for each generated token.
            prompt_logprobs: alternatives for each prompt token.
            names: how this endpoint calls a parameter, where it differs.

        Raises:
            ApiError: 400, naming the request's field.
        """
        given = {name: value for name in _SAME_NAMES if (value := getattr(self, name)) is not None}
        params = msgspec.structs.replace(
            SamplingParams(
                max_tokens=max_tokens,
                # vLLM writes -1 for all tokens.
                top_k=0 if self.top_k is None or self.top_k == -1 else self.top_k,
                stop=tuple(self.stop or ()),
                stop_token_ids=tuple(self.stop_token_ids or ()),
                logprobs=logprobs,
                prompt_logprobs=prompt_logprobs,
            ),
            **given,
        )
        try:
            validate_sampling(params, vocab_size)
        except InvalidRequestError as error:
            field = names.get(error.field, error.field)
            raise ApiError(
                400, f"{field}={error.value!r}: {error.remedy}"[:500], param=field, code="invalid_value"
            ) from error
        return params
