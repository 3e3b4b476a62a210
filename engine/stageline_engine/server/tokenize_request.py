"""The bodies of POST /tokenize and /detokenize, in vLLM's shapes."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from stageline_engine.server import limits
from stageline_engine.server.chat_request import TemplateFields
from stageline_engine.server.fields import StrictModel


class TokenizeText(StrictModel):
    """A text to tokenise."""

    model: str | None = None
    prompt: str
    add_special_tokens: bool | None = None
    """Default true."""
    return_token_strs: bool | None = None
    """Also give the tokens as the vocabulary writes them."""


class TokenizeChat(TemplateFields):
    """Messages to tokenise, as /v1/chat/completions would."""

    model: str | None = None
    return_token_strs: bool | None = None
    """Also give the tokens as the vocabulary writes them."""


class DetokenizeRequest(StrictModel):
    """Token ids to make a text of; special tokens are shown."""

    model: str | None = None
    tokens: Annotated[list[Annotated[int, Field(ge=0)]], Field(max_length=limits.MAX_DETOKENIZE_TOKENS, fail_fast=True)]
