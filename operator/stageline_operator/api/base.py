"""What all API types share: strictness, camelCase, and rules that hold in the API server and here alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, Final, Self

from pydantic import BaseModel, ConfigDict, ValidationInfo, model_validator
from pydantic.alias_generators import to_camel


@dataclass(frozen=True, slots=True)
class Rule:
    """A condition over fields that a type alone cannot say; becomes an ``x-kubernetes-validations`` entry.

    Each rule is written twice, side by side: in CEL for the API server, and in Python for ``render FILE`` and for
    resources that were stored before the rule was. Tests feed both with the same table.

    Attributes:
        cel: the expression; true means allowed. ``self`` is the value of the type that has the rule.
        message: names the field and the remedy; the server and ``SpecError`` put the path of ``self`` before it.
        holds: the same condition over the pydantic value; None for a rule about ``oldSelf``.
        keeps: a rule about ``oldSelf``: the same condition over the value before and the value after.
    """

    cel: str
    message: str
    holds: Callable[[Any], bool] | None
    keeps: Callable[[Any, Any], bool] | None = None


WITHOUT_RULES: Final = object()
"""Validation context for a part of a spec that once held as a whole: types are checked, rules are not."""


class ApiModel(BaseModel):
    """Base of every type in spec and status: strict, frozen, unknown fields refused, camelCase outside."""

    model_config = ConfigDict(
        strict=True,
        extra="forbid",
        frozen=True,
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        use_attribute_docstrings=True,
    )

    rules: ClassVar[tuple[Rule, ...]] = ()
    """Rules of this type; those of its bases hold too."""

    @classmethod
    @cache
    def all_rules(cls) -> tuple[Rule, ...]:
        """Rules of this type and its bases, the widest first."""
        return tuple(rule for base in reversed(cls.__mro__) for rule in vars(base).get("rules", ()))

    @model_validator(mode="after")
    def _obey_rules(self, info: ValidationInfo) -> Self:
        if info.context is WITHOUT_RULES:
            return self
        for rule in self.all_rules():
            if rule.holds is not None and not rule.holds(self):
                raise ValueError(rule.message)
        return self

    def dump(self, *, exclude_defaults: bool = False) -> dict[str, Any]:
        """As JSON-ready values with camelCase names; absent fields are left out."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_defaults=exclude_defaults)
