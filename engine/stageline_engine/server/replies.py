"""What the API answers, as msgspec structs: built once per chunk, encoded once. Shapes are the OpenAI API's;
fields that only vLLM has too are marked.
"""

from __future__ import annotations

from typing import Literal

import msgspec

UNSET = msgspec.UNSET
Maybe = msgspec.UnsetType


class PromptTokensDetails(msgspec.Struct):
    """Part of :class:`Usage`."""

    cached_tokens: int


class Usage(msgspec.Struct, kw_only=True):
    """Tokens that a request cost."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


class TopLogprob(msgspec.Struct):
    """An alternative at one position."""

    token: str
    logprob: float
    bytes: list[int]


class ChatTokenLogprob(msgspec.Struct):
    """A generated token."""

    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[TopLogprob]


class ChatLogprobs(msgspec.Struct):
    """Log probabilities of a chat choice or chunk."""

    content: list[ChatTokenLogprob]
    refusal: None = None


class CompletionLogprobs(msgspec.Struct):
    """Log probabilities of a completion choice or chunk, one entry per token in each list."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class PromptLogprob(msgspec.Struct):
    """vLLM: a prompt token or an alternative to it."""

    logprob: float
    rank: int
    decoded_token: str


PromptLogprobsReply = list[dict[str, PromptLogprob] | None]


class CompletionChoice(msgspec.Struct, kw_only=True):
    """A choice of a completion, whole or the next piece of it."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    """vLLM: the stop token id or stop string."""
    prompt_logprobs: PromptLogprobsReply | Maybe = UNSET
    """vLLM."""


class Completion(msgspec.Struct, kw_only=True):
    """Answer of /v1/completions, and a chunk of its stream."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage | Maybe | None = UNSET


class ChatMessage(msgspec.Struct, kw_only=True):
    """What the model said."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class ChatChoice(msgspec.Struct, kw_only=True):
    """A choice of a chat completion."""

    index: int
    message: ChatMessage
    logprobs: ChatLogprobs | None = None
    finish_reason: str
    stop_reason: int | str | None = None
    """vLLM: the stop token id or stop string."""


class ChatCompletion(msgspec.Struct, kw_only=True):
    """Answer of /v1/chat/completions."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    prompt_logprobs: PromptLogprobsReply | Maybe = UNSET
    """vLLM."""


class ChatDelta(msgspec.Struct, kw_only=True):
    """What a chunk adds to a message."""

    role: Literal["assistant"] | Maybe = UNSET
    content: str | Maybe = UNSET


class ChatChunkChoice(msgspec.Struct, kw_only=True):
    """A choice's part of a chunk."""

    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None = None
    finish_reason: str | None = None
    stop_reason: int | str | Maybe = UNSET
    """vLLM: the stop token id or stop string."""


class ChatChunk(msgspec.Struct, kw_only=True):
    """A piece of a streamed chat completion."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChatChunkChoice]
    usage: Usage | Maybe | None = UNSET


class ModelCard(msgspec.Struct, kw_only=True):
    """A served model."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "stageline"
    max_model_len: int
    """vLLM: longest sequence in tokens."""


class ModelList(msgspec.Struct, kw_only=True):
    """Answer of /v1/models."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


class Tokenized(msgspec.Struct, kw_only=True):
    """Answer of /tokenize (vLLM)."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None = None


class Detokenized(msgspec.Struct, kw_only=True):
    """Answer of /detokenize (vLLM)."""

    prompt: str


class ErrorDetail(msgspec.Struct, kw_only=True):
    """An error in the OpenAI API's shape."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorReply(msgspec.Struct):
    """Body of every answer with a status of 400 or more."""

    error: ErrorDetail


encode = msgspec.json.Encoder().encode


def usage(prompt_tokens: int, completion_tokens: int, cached_tokens: int) -> Usage:
    """A Usage from its three counts."""
    return Usage(
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        total_tokens=prompt_tokens + completion_tokens,
        prompt_tokens_details=PromptTokensDetails(cached_tokens),
    )
