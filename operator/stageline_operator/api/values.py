"""Types of single values: bounded texts, names, amounts, and fields that are refused.

Each is a pydantic annotation that checks a value here and writes the same check into the CRD. A pattern has a remedy of
its own, because an API server that only shows a regular expression helps nobody.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.alias_generators import to_camel
from pydantic_core import CoreSchema, core_schema

VALIDATIONS = "x-kubernetes-validations"


@dataclass(frozen=True)
class Text:
    """A bounded string.

    Attributes:
        pattern: what the whole of it must match; "" for anything. RE2 and Python must read it alike.
        remedy: said when it does not.
        format: name of a Kubernetes format that says the same as ``pattern`` (CEL's ``format`` library, from 1.32):
            much cheaper to estimate, and to read, than the pattern.
        is_rule: the pattern is a CEL rule with the remedy as message. Where lists lie in lists in lists, CEL's budget
            allows none: there it is a plain ``pattern``, free of charge, and the server says the pattern itself.
    """

    max_length: int
    min_length: int = 0
    pattern: str = ""
    remedy: str = ""
    format: str = ""
    is_rule: bool = True

    @property
    def cel(self) -> str:
        """The pattern as a CEL condition on ``self``."""
        if self.format:
            return f"!format.{self.format}().validate(self).hasValue()"
        return f"self.matches({quote(f'^({self.pattern})$')})"

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        if not self.pattern:
            return core_schema.str_schema(strict=True, min_length=self.min_length, max_length=self.max_length)
        # A pattern that forbids the empty text has the better words for it, here and in the server.
        text = core_schema.str_schema(strict=True, max_length=self.max_length)
        return core_schema.no_info_after_validator_function(self._check, text)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        made: dict[str, Any] = {"type": "string", "maxLength": self.max_length}
        if self.min_length and not self.pattern:
            made["minLength"] = self.min_length
        if self.pattern and not self.is_rule:
            made["pattern"] = f"^({self.pattern})$"
        elif self.pattern:
            made[VALIDATIONS] = [{"rule": self.cel, "message": self.remedy}]
        return made

    def _check(self, value: str) -> str:
        if not re.fullmatch(self.pattern, value):
            raise ValueError(self.remedy)
        return value


@dataclass(frozen=True)
class AmountOrNumber:
    """A quantity as text, or a whole number: YAML users write both ``"500m"`` and ``2``.

    Attributes:
        least: smallest whole number.
        pattern, remedy: as in Text.
    """

    least: int = 0
    pattern: str = r"[0-9]+([.][0-9]+)?(e[0-9]{1,2}|m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?"
    remedy: str = "write an amount such as 2, 500m or 4Gi"
    max_length: ClassVar[int] = 32

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self._check)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        matches = f"self.matches({quote(f'^({self.pattern})$')})"
        return {
            "x-kubernetes-int-or-string": True,
            "maxLength": self.max_length,
            VALIDATIONS: [
                {"rule": f"type(self) == int ? self >= {self.least} : {matches}", "message": self.remedy},
            ],
        }

    def _check(self, value: object) -> str | int:
        if isinstance(value, int) and not isinstance(value, bool) and self.least <= value < 2**63:
            return value
        if isinstance(value, str) and len(value) <= self.max_length and re.fullmatch(self.pattern, value):
            return value
        raise ValueError(self.remedy)


@dataclass(frozen=True)
class Refused:
    """A field of core/v1's pod that people may expect here, and that may not be set: refused with the way to do it.

    Attributes:
        schema: JSON schema of the field in core/v1, so that the server comes as far as the message.
    """

    remedy: str
    schema: tuple[tuple[str, Any], ...]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self._refuse)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {**dict(self.schema), VALIDATIONS: [{"rule": "false", "message": self.remedy}]}

    def _refuse(self, value: object) -> None:
        raise ValueError(self.remedy)


@dataclass(frozen=True)
class ByKey:
    """Entries of a list are told apart by one field, and may not repeat it (a list of type ``map``)."""

    key: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        made = handler(schema["schema"]) if "schema" in schema else handler(schema)
        return {**made, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [to_camel(self.key)]}

    def _check(self, entries: tuple[Any, ...]) -> tuple[Any, ...]:
        keys = [getattr(entry, self.key) for entry in entries]
        for key in keys:
            if keys.count(key) > 1:
                raise ValueError(f"{to_camel(self.key)} {key!r} is there twice; keep one")
        return entries


def quote(text: str) -> str:
    """A CEL string literal."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


_LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN = rf"{_LABEL}([.]{_LABEL})*"
_VALUE = r"([A-Za-z0-9]([-_.A-Za-z0-9]*[A-Za-z0-9])?)?"
QUALIFIED = r"[A-Za-z0-9]([-_.A-Za-z0-9]{0,61}[A-Za-z0-9])?"
"""The part of a label's key after its prefix."""

DNS_LABEL = Text(63, 1, _LABEL, "use lower-case letters, digits and dashes", "dns1123Label")
SUBDOMAIN = Text(253, 1, _SUBDOMAIN, "use lower-case letters, digits, dashes and dots", "dns1123Subdomain")
SERVICE_NAME = Text(
    63,
    1,
    r"[a-z]([-a-z0-9]*[a-z0-9])?",
    "use lower-case letters, digits and dashes, beginning with a letter",
    "dns1035Label",
)
LABEL_KEY = Text(
    317,
    1,
    rf"(?=[^/]{{1,253}}/|[^/]+$)({_SUBDOMAIN}/)?{QUALIFIED}",
    "write NAME or PREFIX/NAME, NAME with up to 63 letters, digits, dashes, dots and underscores",
    "qualifiedName",
)
LABEL_VALUE = Text(
    63,
    0,
    _VALUE,
    "use up to 63 letters, digits, dashes, dots and underscores",
    "labelValue",
)

Name = Annotated[str, DNS_LABEL]
"""A DNS label: names of volumes and queues."""
ObjectName = Annotated[str, SUBDOMAIN]
"""A DNS subdomain: names of Secrets, ConfigMaps, PersistentVolumeClaims, classes."""
ServiceName = Annotated[str, SERVICE_NAME]
"""A DNS-1035 label."""
LabelKey = Annotated[str, LABEL_KEY]
"""A label's, annotation's or resource's key, with or without prefix."""
LabelValue = Annotated[str, LABEL_VALUE]
"""A label's value."""
Amount = Annotated[str | int, AmountOrNumber()]
"""``500m``, ``4Gi`` or ``2``."""
Size = Annotated[
    str | int,
    AmountOrNumber(
        least=1,
        pattern="[1-9][0-9]*(k|M|G|T|Ki|Mi|Gi|Ti)?",
        remedy="write a size in bytes, above 0, such as 4Gi, 500M or 1073741824",
    ),
]
"""``4Gi``, ``500M`` or a number of bytes; at least 1."""
DeepLabelKey = Annotated[str, Text(317, 1, rf"({_SUBDOMAIN}/)?{QUALIFIED}", LABEL_KEY.remedy, is_rule=False)]
"""A label's key in lists that lie too deep for a CEL rule."""
DeepLabelValue = Annotated[str, Text(63, 0, _VALUE, LABEL_VALUE.remedy, is_rule=False)]
"""A label's value in lists that lie too deep for a CEL rule."""
AnnotationValue = Annotated[str, Text(4096)]
"""An annotation's value."""
