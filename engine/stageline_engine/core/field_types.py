"""Types of what a program gives: msgspec checks fields when it decodes, not when a struct is made."""

from __future__ import annotations

import functools
import typing
from collections.abc import Callable
from typing import TypeVar

import msgspec

from stageline_engine.core.errors import InvalidInputError

Struct = TypeVar("Struct", bound=msgspec.Struct)


def typed_fields(struct: Struct, error: Callable[[str, object, str], InvalidInputError]) -> Struct:
    """A copy whose fields have their annotated types: whole numbers become floats, lists tuples; nothing else changes.

    Args:
        error: made of the field's name, its value and the remedy.

    Raises:
        InvalidInputError: ``error`` of the first field that has another type.
    """
    values = {}
    for field, kind in _kinds(type(struct)).items():
        value = getattr(struct, field)
        try:
            values[field] = msgspec.convert(value, kind)
        except msgspec.ValidationError as fault:
            raise error(field, value, f"its type is {_shown(kind)} ({fault})") from None
    return type(struct)(**values)


def checked_struct(
    field: str, value: object, kind: type[Struct], error: Callable[[str, object, str], InvalidInputError]
) -> Struct:
    """``value`` itself, when it is of the struct type ``kind``; a dict of its fields is not, and is told how to be.

    Args:
        error: made of ``field``, ``value`` and the remedy.

    Raises:
        InvalidInputError: ``error``, when it is something else.
    """
    if isinstance(value, kind):
        return value
    fields = kind.__struct_fields__
    if isinstance(value, dict) and value and set(value) <= set(fields):
        written = ", ".join(f"{name}={one!r}" for name, one in value.items())
        raise error(field, value, f"write it as {kind.__name__}({written})")
    raise error(field, value, f"give {kind.__name__}; its fields are {', '.join(fields)}")


@functools.cache
def _kinds(struct: type[msgspec.Struct]) -> dict[str, object]:
    return typing.get_type_hints(struct)


def _shown(kind: object) -> str:
    return kind.__name__ if isinstance(kind, type) and not typing.get_args(kind) else str(kind)
