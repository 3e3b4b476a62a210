"""A model's chat template: messages in, the text of the prompt out. The template comes with the model and is run in
jinja2's immutable sandbox, with the helpers that transformers offers to templates.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from stageline_engine.core.errors import InvalidRequestError, ModelSourceError

RESERVED_VARIABLES = frozenset({"messages", "tools", "documents", "add_generation_prompt"})
"""Variables that a request's ``chat_template_kwargs`` may not set."""

CONTINUE_MARK = "[[STAGELINE GOES ON HERE]]"
"""Put behind a final message that is to be continued, to find the place where the template closes it."""


class ChatTemplate:
    """A compiled template.

    Args:
        source: jinja2 text.
        special_tokens: variables such as ``bos_token``.

    Raises:
        jinja2.TemplateSyntaxError: the template does not compile.
    """

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        self.source = source
        self._special_tokens = dict(special_tokens)
        self._template = _environment().from_string(source)

    def render(
        self,
        messages: Sequence[Mapping[str, object]],
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        variables: Mapping[str, object] | None = None,
    ) -> str:
        """Text of the prompt, to be encoded without adding special tokens.

        Args:
            messages: objects with ``role`` and ``content``.
            add_generation_prompt: end with the beginning of an assistant message.
            continue_final_message: leave the last message open, so that the model goes on with it.
            variables: more variables for the template.

        Raises:
            InvalidRequestError: the template refuses the messages, or both of the flags are set.
        """
        if continue_final_message and add_generation_prompt:
            raise InvalidRequestError(
                "continue_final_message", True, "set add_generation_prompt to false with it: they exclude each other"
            )
        shown = [dict(message) for message in messages]
        if continue_final_message:
            content = shown[-1].get("content")
            if not isinstance(content, str):
                raise InvalidRequestError("continue_final_message", True, "the last message has no content to continue")
            shown[-1]["content"] = content + CONTINUE_MARK + " "
        try:
            text = self._template.render(
                {**self._special_tokens, **(variables or {})},
                messages=shown,
                tools=None,
                documents=None,
                add_generation_prompt=add_generation_prompt,
            )
        # A template is a program of the model's: whatever it raises is about these messages, not about the server.
        except (jinja2.TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as error:
            raise InvalidRequestError(
                "messages", _roles(messages), f"the chat template refuses them: {error}"
            ) from error
        except (RecursionError, MemoryError) as error:
            raise InvalidRequestError("messages", _roles(messages), "the chat template cannot digest them") from error
        return _open_ended(text) if continue_final_message else text


def read_chat_template(
    folder: Path, config: Mapping[str, object], special_tokens: Mapping[str, str]
) -> ChatTemplate | None:
    """The template of chat_template.jinja, else of tokenizer_config.json; None when there is none.

    Raises:
        ModelSourceError: it does not compile.
    """
    path = folder / "chat_template.jinja"
    source: object = path.read_text(encoding="utf-8") if path.exists() else config.get("chat_template")
    if isinstance(source, list):
        by_name = {entry.get("name"): entry.get("template") for entry in source if isinstance(entry, dict)}
        source = by_name.get("default")
    if not isinstance(source, str):
        return None
    try:
        return ChatTemplate(source, special_tokens)
    except jinja2.TemplateError as error:
        raise ModelSourceError("model", str(folder), f"the chat template does not compile ({error})") from error


def _open_ended(text: str) -> str:
    cut = text.rfind(CONTINUE_MARK)
    if cut < 0:
        raise InvalidRequestError("continue_final_message", True, "the chat template does not show the last message")
    # A template that strips the content has taken the space behind the mark; then the content's own spaces go too.
    is_stripped = not text.startswith(CONTINUE_MARK + " ", cut)
    return text[:cut].rstrip() if is_stripped else text[:cut]


def _roles(messages: Sequence[Mapping[str, object]]) -> list[object]:
    return [message.get("role") for message in messages]


class _GenerationBlock(Extension):
    """``{% generation %} … {% endgeneration %}`` marks an assistant's words for training; here it is only its body."""

    tags: set[str] = {"generation"}  # noqa: RUF012 (declared so by jinja2)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """The body, as if the marks were not there."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlock, loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


def _tojson(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # jinja2's own filter escapes for HTML, which a model must not see.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(form: str) -> str:
    return datetime.datetime.now().strftime(form)
