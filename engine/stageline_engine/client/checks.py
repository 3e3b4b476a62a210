"""What a program gives to an engine, checked before it is sent: the core takes messages as their types say, or ends."""

from __future__ import annotations

from collections.abc import Iterable
from typing import SupportsIndex

from stageline_engine.core.errors import InvalidRequestError
from stageline_engine.core.messages import AddRequest
from stageline_engine.core.request import MAX_CHOICES, SamplingParams, checked_prompt, checked_sampling

MAX_REQUEST_ID_CHARACTERS = 1024


def checked_request(
    request_id: str, prompt_token_ids: Iterable[SupportsIndex], sampling: SamplingParams, vocab_size: int
) -> AddRequest:
    """The message for a new request.

    Raises:
        InvalidRequestError: names the argument, or the field of ``sampling``, its value and what is allowed.
    """
    _check_request_id(request_id)
    return AddRequest(request_id, checked_prompt(prompt_token_ids, vocab_size), checked_sampling(sampling, vocab_size))


def check_choices(choices: list[int] | None) -> None:
    """Refuse what does not name choices of a request.

    Raises:
        InvalidRequestError: names what is allowed.
    """
    if choices is None:
        return
    if not isinstance(choices, list) or not all(type(one) is int and 0 <= one < MAX_CHOICES for one in choices):
        raise InvalidRequestError("choices", choices, f"give a list of numbers from 0 to {MAX_CHOICES - 1}, or None")


def _check_request_id(request_id: str) -> None:
    if not isinstance(request_id, str):
        raise InvalidRequestError("request_id", request_id, "give a text")
    if len(request_id) > MAX_REQUEST_ID_CHARACTERS:
        raise InvalidRequestError(
            "request_id", request_id, f"give at most {MAX_REQUEST_ID_CHARACTERS} characters, not {len(request_id)}"
        )
    if not request_id.isprintable():
        raise InvalidRequestError("request_id", request_id, "give printable characters only")
