"""The body of POST /v1/completions."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import PlainValidator, WithJsonSchema

from stageline_engine.core.request import SamplingParams
from stageline_engine.server import limits
from stageline_engine.server.errors import ApiError
from stageline_engine.server.fields import Unsupported
from stageline_engine.server.sampling_fields import NO_EFFECT, SamplingFields

DEFAULT_MAX_TOKENS = 16
"""As in the OpenAI API."""

Prompt = str | list[int]
"""A text or token ids."""


def _is_id(value: object) -> bool:
    return type(value) is int


def _prompts(value: object) -> list[Prompt]:
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list) or not value:
        raise ValueError("give a text, a list of texts, a list of token ids, or a list of such lists")
    if all(map(_is_id, value)):
        return [value]
    if len(value) > limits.MAX_PROMPTS:
        raise ValueError(f"give at most {limits.MAX_PROMPTS} prompts, not {len(value)}")
    if all(isinstance(one, str) for one in value):
        return list(value)
    if all(isinstance(one, list) and one and all(map(_is_id, one)) for one in value):
        return list(value)
    raise ValueError("give a text, a list of texts, a list of token ids, or a list of such lists, none of them empty")


_PROMPT_SCHEMA: dict[str, object] = {
    "title": "Prompt",
    "anyOf": [
        {"type": "string"},
        {"type": "array", "items": {"type": "string"}},
        {"type": "array", "items": {"type": "integer"}},
        {"type": "array", "items": {"type": "array", "items": {"type": "integer"}}},
    ],
}


class CompletionRequest(SamplingFields):
    """A completion request."""

    unsupported: ClassVar = {
        **NO_EFFECT,
        "suffix": Unsupported("filling in the middle is not supported", ("",)),
    }

    prompt: Annotated[list[Prompt], PlainValidator(_prompts), WithJsonSchema(_PROMPT_SCHEMA)]
    echo: bool | None = None
    logprobs: int | None = None
    best_of: int | None = None
    add_special_tokens: bool | None = None
    """vLLM: whether the model's beginning and end tokens are added to texts; default true."""

    def check(self) -> None:
        """Refuse what does not go together.

        Raises:
            ApiError: 400.
        """
        self.check_stream()
        num_choices = 1 if self.n is None else self.n
        if self.best_of is not None and self.best_of != num_choices:
            raise ApiError(
                400,
                f"best_of={self.best_of}: choosing among more sequences than n is not supported; give n={num_choices}",
                param="best_of",
                code="unsupported_field",
            )
        if len(self.prompt) * num_choices > limits.MAX_SEQUENCES:
            raise ApiError(
                400,
                f"n={num_choices}: {len(self.prompt)} prompts with n choices each are more than "
                f"{limits.MAX_SEQUENCES} sequences; send several requests",
                param="n",
                code="invalid_value",
            )

    def to_sampling(self, vocab_size: int) -> SamplingParams:
        """Parameters for the engine; the same for all prompts.

        Raises:
            ApiError: 400.
        """
        prompt_logprobs = self.prompt_logprobs
        max_tokens = DEFAULT_MAX_TOKENS if self.max_tokens is None else self.max_tokens
        if self.echo and (self.logprobs is not None or max_tokens == 0):
            # Without new tokens the engine has only the prompt's log probabilities to work for.
            prompt_logprobs = max(prompt_logprobs or 0, self.logprobs or 0)
        return self.sampling(
            vocab_size,
            max_tokens=max_tokens,
            logprobs=self.logprobs,
            prompt_logprobs=prompt_logprobs,
            names={},
        )
