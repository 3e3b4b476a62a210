"""docs/infdep.md, made from the API's types: each field with type, bounds, default and meaning; each rule."""

from __future__ import annotations

from typing import Any

from pydantic.fields import FieldInfo

from stageline_operator.api.base import ApiModel
from stageline_operator.api.constants import API_VERSION, KIND, MAX_NAME
from stageline_operator.api.spec import InferenceDeploymentSpec
from stageline_operator.api.status import InferenceDeploymentStatus
from stageline_operator.api.values import VALIDATIONS, Refused
from stageline_operator.schema.structural import Schema, models_in, structural, text_of

INTRODUCTION = f"""# InferenceDeployment

<!-- Made by `stageline-operator docs` from the operator's types; never edit it. -->

`{API_VERSION}`, kind `{KIND}`, short name `infdep`. Everything here is also in
`kubectl explain infdep.spec`. What this page calls *refused*, the API server refuses when you apply it; fields that it
does not know, `kubectl` refuses. An *amount* is a number or a text such as `500m`, `2` or `4Gi`; a *size* is one of
bytes, such as `4Gi`, `500M` or `1073741824`. The definition needs Kubernetes 1.32 or newer.

`metadata.name` has at most {MAX_NAME} lower-case letters, digits and dashes and begins with a letter, since names of
pods and Services are made from it.

Settings of pods can be written in four places, and the narrower one wins: `podTemplate` (all pods), then `head`, or
`pipeline.stageDefaults` (all stages), then `pipeline.stageList[]` (one stage). Maps join key by key, `env` and
`volumes` by name, `volumeMounts` by path, tolerations add up, everything else is replaced as a whole. A place that
names a resource in `resources` (say `memory`) replaces its request and its limit.
"""


def reference() -> str:
    """The whole page."""
    sections = [INTRODUCTION, "## spec\n", *_sections("spec", InferenceDeploymentSpec)]
    sections += ["## status\n", *_sections("status", InferenceDeploymentStatus)]
    return "\n".join(sections)


def _sections(root: str, model: type[ApiModel]) -> list[str]:
    """A section for each type, in the order in which they appear; a type that appears twice has one."""
    sections = [_section(root, model)]
    pending, seen = _inner(root, model), {model}
    while pending:
        path, inner = pending.pop(0)
        if inner in seen:
            continue
        seen.add(inner)
        sections.append(f'<a id="{_anchor(inner)}"></a>\n\n### {path}\n')
        sections.append(_section(path, inner))
        pending = _inner(path, inner) + pending
    return sections


def _inner(path: str, model: type[ApiModel]) -> list[tuple[str, type[ApiModel]]]:
    return [
        (f"{path}.{field.alias or name}{'[]' if _is_list(field) else ''}", inner)
        for name, field in model.model_fields.items()
        for inner in models_in(field.annotation).values()
    ]


def _section(path: str, model: type[ApiModel]) -> str:
    properties = structural(model)["properties"]
    lines = [text_of(model.__doc__), ""]
    refused = []
    lines += ["| field | type | default | meaning |", "|---|---|---|---|"]
    for name, field in model.model_fields.items():
        alias = field.alias or name
        if any(isinstance(mark, Refused) for mark in field.metadata):
            refused.append(f"- `{alias}`: {properties[alias][VALIDATIONS][0]['message']}")
            continue
        default = "required" if field.is_required() else _shown_default(properties[alias])
        cells = (f"`{alias}`", _shown_type(field, properties[alias]), default, text_of(field.description))
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    rules = [f"- {rule.message}" for rule in model.all_rules()]
    if rules:
        lines += ["", "Refused:", "", *rules]
    if refused:
        lines += ["", "May not be set:", "", *refused]
    return "\n".join(lines) + "\n"


def _shown_type(field: FieldInfo, schema: Schema) -> str:
    inner = next(iter(models_in(field.annotation).values()), None)
    if inner is not None:
        link = f"[{inner.__name__}](#{_anchor(inner)})"
        return f"list of {link}, at most {schema['maxItems']}" if _is_list(field) else link
    return _shown_schema(schema)


def _shown_schema(schema: Schema) -> str:
    if schema.get("x-kubernetes-int-or-string"):
        return "size" if "size" in schema[VALIDATIONS][0]["message"] else "amount"
    if "enum" in schema:
        return " or ".join(f"`{value}`" if value else '`""`' for value in schema["enum"])
    match schema["type"]:
        case "integer":
            return f"integer, {schema['minimum']} to {schema['maximum']}"
        case "string":
            return f"string, at most {schema['maxLength']}"
        case "array":
            return f"list of {_shown_schema(schema['items'])}, at most {schema['maxItems']}"
        case "object":
            return f"map to {_shown_schema(schema['additionalProperties'])}, at most {schema['maxProperties']}"
        case other:
            return str(other)


def _shown_default(schema: Schema) -> str:
    value: Any = schema.get("default")
    if value is None or isinstance(value, dict):
        return ""
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _is_list(field: FieldInfo) -> bool:
    return "tuple[" in str(field.annotation)


def _anchor(model: type[ApiModel]) -> str:
    return model.__name__.lower()
