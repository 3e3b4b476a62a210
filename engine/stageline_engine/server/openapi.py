"""The bodies of POST requests in the generated API description, which /docs shows.

Handlers read their bodies themselves (counted, in one pass), so FastAPI cannot know their fields.
"""

from __future__ import annotations

from collections.abc import Mapping

from stageline_engine.server.fields import StrictModel


def body_description(model: type[StrictModel]) -> dict[str, object]:
    """OpenAPI's ``requestBody`` for a model, with the models inside it written out."""
    schema = model.model_json_schema()
    definitions = schema.pop("$defs", {})
    inlined = _inlined(schema, definitions)
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": inlined}}}}


def _inlined(value: object, definitions: Mapping[str, object]) -> object:
    if isinstance(value, list):
        return [_inlined(one, definitions) for one in value]
    if not isinstance(value, dict):
        return value
    if isinstance(reference := value.get("$ref"), str):
        return _inlined(definitions[reference.rpartition("/")[2]], definitions)
    return {key: _inlined(one, definitions) for key, one in value.items()}
