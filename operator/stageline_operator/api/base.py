"""What all API types share: strictness, camelCase, bounds, and rules that hold in the API server and here alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel


@dataclass(frozen=True, slots=True)
class Rule:
    """A condition over fields that a type alone cannot say; becomes an ``x-kubernetes-validations`` entry.

    Each rule is written twice, side by side: in CEL for the API server, and in Python for ``render FILE`` and for
    resources that were stored before the rule was. Tests feed both with the same tables.

    Attributes:
        cel: the expression; true means allowed. ``self`` is the value of the type that has the rule.
        message: names the field (full path from ``spec``) and the remedy.
        holds: the same condition over the pydantic value; None for a rule about ``oldSelf``, which only a server knows.
        field: path below the type, for the client's ``fieldPath``; "" is the value itself.
    """

    cel: str
    message: str
    holds: Callable[[Any], bool] | None
    field: str = ""


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

    @model_validator(mode="after")
    def _obey_rules(self) -> Self:
        for rule in self.rules:
            if rule.holds is not None and not rule.holds(self):
                raise ValueError(rule.message)
        return self

    def dump(self, *, exclude_defaults: bool = False) -> dict[str, Any]:
        """As JSON-ready values with camelCase names; absent fields are left out."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_defaults=exclude_defaults)


Name = Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")]
"""A DNS label: names of volumes, ports and most objects that a pod refers to."""
ObjectName = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$")]
"""A DNS subdomain: names of Secrets, ConfigMaps, PersistentVolumeClaims, classes."""
LabelKey = Annotated[
    str,
    Field(
        min_length=1,
        max_length=316,
        pattern=r"^([a-z0-9]([-.a-z0-9]*[a-z0-9])?/)?[A-Za-z0-9]([-_.A-Za-z0-9]*[A-Za-z0-9])?$",
    ),
]
"""A label's key, with or without prefix."""
LabelValue = Annotated[str, Field(max_length=63, pattern=r"^([A-Za-z0-9]([-_.A-Za-z0-9]*[A-Za-z0-9])?)?$")]
"""A label's value."""
Quantity = Annotated[
    str,
    Field(max_length=32, pattern=r"^[0-9]+(\.[0-9]+)?([eE][0-9]+|m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?$"),
]
"""An amount as Kubernetes writes it: ``500m``, ``4Gi``, ``2``."""
AmountOrNumber = Quantity | Annotated[int, Field(ge=0, le=2**53)]
"""A quantity; YAML users write whole numbers without quotes."""
