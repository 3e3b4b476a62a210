"""Resources that nobody would write: made from the schema, or mutated from right ones. Same seed, same resource."""

from __future__ import annotations

import copy
from random import Random
from typing import Any

Schema = dict[str, Any]

TEXTS = (
    *("", "a", "demo", "A b", "UPPER", "a.b", "a/b", "1a", "x" * 40, "x" * 64, "x" * 300, "é", "a\nb"),
    *("/tmp", "/data", "/data/../x", "data", "2", "500m", "4Gi", "0", "-1", "1e3", "4GB"),
    *("hf://a/b", "hf://a/b@c", "pvc://claim/x", "file:///m", "pip://p", "nvidia.com/gpu", "cpu", "memory"),
    *("stageline.dev/x", "stageline-x", "HOME", "RAY_X", "none", "kueue", "Exists", "NoExecute"),
)
ODD_VALUES: tuple[Any, ...] = (-1, 0, 1, 2, 7, 65, 100000, 1.5, True, False, [], {}, [{}], {"a": "b"}, *TEXTS)
KEYS = ("cpu", "memory", "nvidia.com/gpu", "amd.com/gpu", "rdma/hca", "a", "a/b", "stageline.dev/a", "A b", "")


def from_schema(schema: Schema, random: Random) -> Any:
    """A value that has the schema's types and is often at or beyond its bounds; each field is there or is not."""
    if schema.get("x-kubernetes-int-or-string"):
        return random.choice((0, 1, 2, "1", "2", "500m", "4Gi", "lots", -1))
    if "enum" in schema:
        return random.choice(schema["enum"])
    match schema["type"]:
        case "integer":
            least, most = schema.get("minimum", 0), schema.get("maximum", 10)
            return random.choice((least, least + 1, least + 1, min(most, least + 30), most, most + 1, least - 1))
        case "boolean":
            return random.random() < 0.5
        case "string":
            return random.choice(TEXTS)
        case "array":
            return [from_schema(schema["items"], random) for _ in range(random.choice((0, 1, 1, 2, 3)))]
        case _ if "additionalProperties" in schema:
            inner = schema["additionalProperties"]
            return {key: from_schema(inner, random) for key in random.sample(KEYS, random.choice((0, 1, 2)))}
        case _:
            return {
                name: from_schema(inner, random)
                for name, inner in schema.get("properties", {}).items()
                if name in schema.get("required", ()) or random.random() < (0.01 if _is_refused(inner) else 0.25)
            }


def _is_refused(schema: Schema) -> bool:
    return any(rule["rule"] == "false" for rule in schema.get("x-kubernetes-validations", ()))


def mutated(spec: dict[str, Any], schema: Schema, random: Random) -> dict[str, Any]:
    """One to three changes of a spec: a field removed, replaced by an odd value, or made anew from its schema."""
    spec = copy.deepcopy(spec)
    for _ in range(random.choice((1, 1, 2, 3))):
        place, inner = spec, schema
        while True:
            properties = inner.get("properties", {})
            present = [
                name for name in place if isinstance(place[name], dict) and "properties" in properties.get(name, {})
            ]
            if not present or random.random() < 0.4:
                break
            name = random.choice(present)
            place, inner = place[name], properties[name]
        _change(place, inner.get("properties", {}), random)
    return spec


def _change(place: dict[str, Any], properties: dict[str, Schema], random: Random) -> None:
    kind = random.random()
    if kind < 0.2 and place:
        place.pop(random.choice(sorted(place)))
    elif kind < 0.4 and place:
        place[random.choice(sorted(place))] = random.choice(ODD_VALUES)
    elif kind < 0.45:
        place[random.choice(("unknown", "max_num_seqs", "Replicas"))] = random.choice(ODD_VALUES)
    elif properties:
        name = random.choice(sorted(properties))
        place[name] = from_schema(properties[name], random)
