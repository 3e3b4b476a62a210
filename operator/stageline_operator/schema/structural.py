"""A pydantic type as a structural OpenAPI v3 schema, the subset of JSON schema that an API server takes for a CRD.

https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/#specifying-a-structural-schema
has the rules: one type at each node, no references, no ``additionalProperties: false``, no ``propertyNames``; unions
only for int-or-string.
"""

from __future__ import annotations

import copy
import inspect
import re
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from stageline_operator.api.base import ApiModel
from stageline_operator.api.values import VALIDATIONS

Schema = dict[str, Any]

_ABOUT_SELF = re.compile(r"\bself\b")

_KEPT = (
    "type",
    "enum",
    "minimum",
    "maximum",
    "minLength",
    "maxLength",
    "pattern",
    "minItems",
    "maxItems",
    "maxProperties",
    "x-kubernetes-int-or-string",
    "x-kubernetes-preserve-unknown-fields",
    "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
)
"""What is taken over as pydantic writes it; everything else is rewritten below or refused."""


def structural(model: type[ApiModel]) -> Schema:
    """The schema of a type, with all types that it has inside, descriptions, defaults and rules.

    A type's fields are described where it first appears and not again, so that a CRD with the same volumes, variables
    and affinity in four places stays small: an API server keeps a CRD in one object, and kubectl in one annotation.
    """
    return _Walk().object(model)


def text_of(documented: str | None) -> str:
    """A docstring as one paragraph of plain text."""
    return " ".join(inspect.cleandoc(documented or "").replace("``", "`").split())


class _Walk:
    """One walk through a type and all inside it."""

    def __init__(self) -> None:
        self._told: set[type[ApiModel]] = set()

    def object(self, model: type[ApiModel]) -> Schema:
        """Schema of a type of ours."""
        whole = model.model_json_schema(by_alias=True, ref_template="{model}")
        is_new = model not in self._told
        self._told.add(model)
        properties = {}
        for name, field in model.model_fields.items():
            alias = field.alias or name
            made = self._node(whole["properties"][alias], whole.get("$defs", {}), models_in(field.annotation))
            whole_text, text = made.pop("description", ""), text_of(field.description)
            if is_new:
                # What the type says goes on where the field's text ends, or is about something wider.
                goes_on = whole_text.startswith(text.removesuffix("."))
                made["description"] = whole_text if goes_on else text
            default = _default(field, made)
            if default is not None:
                made["default"] = default
            properties[alias] = made
        schema: Schema = {"type": "object", "description": text_of(model.__doc__), "properties": properties}
        if not is_new:
            del schema["description"]
        required = [field.alias or name for name, field in model.model_fields.items() if field.is_required()]
        if required:
            schema["required"] = required
        rules = [{"rule": rule.cel, "message": rule.message} for rule in model.all_rules()]
        if rules:
            schema[VALIDATIONS] = rules
        return schema

    def _node(self, given: Schema, definitions: dict[str, Schema], models: dict[str, type[ApiModel]]) -> Schema:
        """One node: ``given`` as pydantic wrote it; ``models`` are those that its references may mean."""
        alternatives = [option for option in given.get("anyOf", []) if option != {"type": "null"}]
        if alternatives:
            (only,) = alternatives
            return self._node({**given, **only, "anyOf": []}, definitions, models)
        if "$ref" in given:
            name = given["$ref"]
            return self.object(models[name]) if name in models else self._node(definitions[name], definitions, models)
        made: Schema = {key: given[key] for key in _KEPT if key in given}
        if "const" in given:
            made["enum"] = [given["const"]]
        if "exclusiveMaximum" in given:
            made["maximum"] = given["exclusiveMaximum"] - 1
        if VALIDATIONS in given:
            made[VALIDATIONS] = list(given[VALIDATIONS])
        if "items" in given:
            made["items"] = self._node(given["items"], definitions, models)
        if "additionalProperties" in given:
            made["additionalProperties"] = self._node(given["additionalProperties"], definitions, models)
            made.setdefault(VALIDATIONS, []).extend(_key_rules(given.get("propertyNames", {})))
        return made


def _key_rules(names: Schema) -> list[Schema]:
    """Rules on the keys of a map: structural schemas have no ``propertyNames``."""
    return [
        {"rule": f"self.all(k, {_ABOUT_SELF.sub('k', rule['rule'])})", "message": rule["message"]}
        for rule in names.get(VALIDATIONS, [])
    ]


def _default(field: FieldInfo, made: Schema) -> Any:
    """The default that the API server puts in; None for a field that may be absent.

    An object's default has its inner ones written out: the server tries its rules on it before it puts those in. An
    object without any has the empty one, so that rules need not ask whether it is there.
    """
    value = field.default
    if value is PydanticUndefined or value is None or value == () or value == "":
        return None
    if isinstance(value, BaseModel):
        # Copies, since YAML would write the same object twice as an anchor and an alias.
        return {
            key: copy.deepcopy(schema["default"]) for key, schema in made["properties"].items() if "default" in schema
        }
    return value


def models_in(annotation: Any) -> dict[str, type[ApiModel]]:
    """The types of ours that an annotation mentions, by name."""
    if inspect.isclass(annotation) and issubclass(annotation, ApiModel):
        return {annotation.__name__: annotation}
    found: dict[str, type[ApiModel]] = {}
    for inner in getattr(annotation, "__args__", ()):
        found |= models_in(inner)
    return found
