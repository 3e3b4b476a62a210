"""From the bytes of a body to a validated request: strict types, no unknown fields, and errors that name the field."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping, Sequence
from typing import ClassVar, NamedTuple, TypeVar

import msgspec
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError

from stageline_engine.server import limits
from stageline_engine.server.errors import ApiError


class Unsupported(NamedTuple):
    """A field of the OpenAI API that this server cannot honour."""

    reason: str
    harmless: Sequence[object] = ()
    """Values, besides null, that ask for nothing."""

    def is_harmless(self, value: object) -> bool:
        """Whether ``value`` asks for nothing."""
        return value is None or any(value == one and type(value) is type(one) for one in self.harmless)


class StrictModel(BaseModel):
    """A part of a request: values are not converted, fields that are not named here are refused."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, protected_namespaces=())
    unsupported: ClassVar[Mapping[str, Unsupported]] = {}

    @model_validator(mode="before")
    @classmethod
    def _known_fields(cls, fields: object) -> object:
        """The fields without unsupported ones that ask for nothing; ends at the first that is not known."""
        if not isinstance(fields, dict):
            return fields
        kept: dict[object, object] = {}
        for name, value in fields.items():
            if name in cls.model_fields:
                kept[name] = value
            elif (rule := cls.unsupported.get(name)) is None:
                raise PydanticCustomError(UNKNOWN_FIELD, "this server knows no such field", {"field": name})
            elif not rule.is_harmless(value):
                raise PydanticCustomError(UNSUPPORTED_FIELD, "{reason}", {"reason": rule.reason, "field": name})
        return kept


UNSUPPORTED_FIELD = "unsupported_field"
UNKNOWN_FIELD = "unknown_field"
RequestModel = TypeVar("RequestModel", bound=StrictModel)


def parse(model: type[RequestModel], body: bytes) -> RequestModel:
    """A request from its JSON text.

    Raises:
        ApiError: 400, naming the field.
    """
    return validate(model, decode(body))


def decode(body: bytes) -> dict[str, object]:
    """The object in a body.

    Raises:
        ApiError: 400.
    """
    if limits.exceeds_json_depth(body):
        raise ApiError(400, f"the body nests deeper than {limits.MAX_JSON_DEPTH} levels", code="too_deep")
    try:
        return msgspec.json.decode(body, type=dict[str, object])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ApiError(400, f"the body is not a JSON object: {error}", code="invalid_json") from error


def validate(model: type[RequestModel], fields: Mapping[str, object]) -> RequestModel:
    """``fields`` as a ``model``.

    Raises:
        ApiError: 400, naming the first wrong field.
    """
    try:
        return model.model_validate(dict(fields))
    except ValidationError as error:
        raise _refusal(error.errors(include_url=False)[0]) from error


def _refusal(error: ErrorDetails) -> ApiError:
    field = _path(error["loc"])
    if error["type"] in (UNSUPPORTED_FIELD, UNKNOWN_FIELD):
        field = _path([*error["loc"], error["ctx"]["field"]])[:200]
        return ApiError(400, f"{field}: {error['msg']}", param=field, code=error["type"])
    if error["type"] == "missing":
        return ApiError(400, f"{field}: the field is missing", param=field, code="missing_field")
    shown = _SHORT.repr(error["input"])
    message = error["msg"].removeprefix("Value error, ")
    return ApiError(400, f"{field}={shown}: {message}", param=field, code="invalid_value")


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 60


def _path(location: Sequence[int | str]) -> str:
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path
