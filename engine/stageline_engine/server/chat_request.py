"""The body of POST /v1/chat/completions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema

from stageline_engine.core.request import SamplingParams
from stageline_engine.server import limits
from stageline_engine.server.errors import ApiError
from stageline_engine.server.fields import StrictModel, Unsupported
from stageline_engine.server.sampling_fields import NO_EFFECT, SamplingFields
from stageline_engine.text.chat_template import RESERVED_VARIABLES

_NO_TOOLS = "tool calling is not supported"
_TEXT_ONLY = "only text is supported"

_UNSUPPORTED: Mapping[str, Unsupported] = {
    **NO_EFFECT,
    "tools": Unsupported(_NO_TOOLS, ([],)),
    "tool_choice": Unsupported(_NO_TOOLS, ("none", "auto")),
    "parallel_tool_calls": Unsupported(_NO_TOOLS, (True, False)),
    "functions": Unsupported(_NO_TOOLS, ([],)),
    "function_call": Unsupported(_NO_TOOLS, ("none", "auto")),
    "response_format": Unsupported("only {'type': 'text'} is supported", ({"type": "text"},)),
    "audio": Unsupported(_TEXT_ONLY),
    "modalities": Unsupported(_TEXT_ONLY, (["text"],)),
    "prediction": Unsupported("predicted outputs are not supported"),
    "web_search_options": Unsupported("web search is not supported"),
    "reasoning_effort": Unsupported("not supported; a template's own switch can be set with chat_template_kwargs"),
    "verbosity": Unsupported("not supported"),
}


def _joined_text(value: object) -> object:
    """The text of a message given in parts; parts are joined by line ends."""
    if not isinstance(value, list):
        return value
    if len(value) > limits.MAX_CONTENT_PARTS:
        raise ValueError(f"give at most {limits.MAX_CONTENT_PARTS} parts")
    texts: list[str] = []
    for index, part in enumerate(value):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind != "text":
            raise ValueError(f"part {index} is of type {kind!r}: only text parts are supported")
        if set(part) != {"type", "text"} or not isinstance(part["text"], str):
            raise ValueError(f"part {index} must have a type and a text, and nothing else")
        texts.append(part["text"])
    return "\n".join(texts)


_CONTENT_SCHEMA: dict[str, object] = {
    "title": "Content",
    "anyOf": [
        {"type": "string"},
        {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"type": {"const": "text"}, "text": {"type": "string"}},
                "required": ["type", "text"],
            },
        },
    ],
}


class Message(StrictModel):
    """A message of the chat."""

    # Clients send back the messages that they got, with these fields empty.
    unsupported: ClassVar = {
        "refusal": Unsupported("not supported"),
        "annotations": Unsupported("not supported", ([],)),
        "audio": Unsupported(_TEXT_ONLY),
        "tool_calls": Unsupported(_NO_TOOLS, ([],)),
        "function_call": Unsupported(_NO_TOOLS),
        "tool_call_id": Unsupported(_NO_TOOLS),
    }

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[str, BeforeValidator(_joined_text), WithJsonSchema(_CONTENT_SCHEMA)]
    name: str | None = None
    """Handed to the template, which may show it."""

    def for_template(self) -> dict[str, object]:
        """As the template sees it; ``developer`` is the new name of ``system``, which templates know."""
        shown: dict[str, object] = {
            "role": "system" if self.role == "developer" else self.role,
            "content": self.content,
        }
        if self.name is not None:
            shown["name"] = self.name
        return shown


class TemplateFields(StrictModel):
    """How messages become a prompt; shared with /tokenize."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=limits.MAX_MESSAGES, fail_fast=True)]
    add_generation_prompt: bool | None = None
    """vLLM: end the prompt with the beginning of an answer; default true."""
    continue_final_message: bool | None = None
    """vLLM: go on with the last message; needs ``add_generation_prompt=false``."""
    add_special_tokens: bool | None = None
    """vLLM: add the model's beginning and end tokens to what the template made; default false."""
    chat_template_kwargs: dict[str, object] | None = None
    """vLLM: more variables for the template."""

    def check_template(self) -> None:
        """Refuse variables that are the server's to set, and flags that exclude each other.

        Raises:
            ApiError: 400.
        """
        for name in RESERVED_VARIABLES & set(self.chat_template_kwargs or ()):
            field = f"chat_template_kwargs.{name}"
            raise ApiError(400, f"{field}: this variable is set by the server", param=field, code="invalid_value")
        if self.continue_final_message and self.add_generation_prompt is not False:
            raise ApiError(
                400,
                "continue_final_message: set add_generation_prompt to false with it, they exclude each other",
                param="continue_final_message",
                code="invalid_value",
            )


class ChatRequest(TemplateFields, SamplingFields):
    """A chat request."""

    unsupported: ClassVar = _UNSUPPORTED

    logprobs: bool | None = None
    top_logprobs: int | None = None
    max_completion_tokens: int | None = None

    def check(self) -> None:
        """Refuse what does not go together.

        Raises:
            ApiError: 400.
        """
        self.check_stream()
        self.check_template()
        if self.top_logprobs is not None and not self.logprobs:
            raise ApiError(
                400, "top_logprobs: only allowed with logprobs=true", param="top_logprobs", code="invalid_value"
            )
        if self.max_tokens is not None and self.max_completion_tokens is not None:
            raise ApiError(
                400,
                "max_tokens: the old name of max_completion_tokens; give one of them",
                param="max_tokens",
                code="invalid_value",
            )

    def to_sampling(self, vocab_size: int) -> SamplingParams:
        """Parameters for the engine.

        Raises:
            ApiError: 400.
        """
        newer = self.max_completion_tokens is not None
        return self.sampling(
            vocab_size,
            max_tokens=self.max_completion_tokens if newer else self.max_tokens,
            logprobs=(self.top_logprobs or 0) if self.logprobs else None,
            prompt_logprobs=self.prompt_logprobs,
            names={"max_tokens": "max_completion_tokens" if newer else "max_tokens", "logprobs": "top_logprobs"},
        )
