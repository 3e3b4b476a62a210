"""Resources that nobody would write: made from the schema, or mutated from right ones. As Hypothesis strategies.

The schema is ours, structural and with its text patterns in CEL, which general builders of values from JSON schemas do
not read: they would make texts that are all refused at the first rule.
"""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from stageline_operator.api import values as api_values
from stageline_operator.schema.crd import custom_resource_definition
from support import specs

Schema = dict[str, Any]

TIMES = int(os.environ.get("STAGELINE_MUTATIONS", "1"))
"""How many times as many are tried as in the usual run of the tests."""
ROUNDS = 12
"""Each tries as many values as are missing: some repeat earlier ones."""
FEWEST = 20
"""Values of a round: the first of each are the simplest ones, and known."""
SCHEMA: Schema = custom_resource_definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
EXAMPLES = [body for _, body in specs.examples() if body["kind"] == "InferenceDeployment"]

TEXTS = (
    *("", "a", "demo", "A b", "UPPER", "a.b", "a/b", "1a", "x" * 40, "x" * 64, "x" * 300, "é", "a\nb"),
    *("/tmp", "/data", "/data/../x", "data", "2", "500m", "4Gi", "0", "-1", "1e3", "4GB"),
    *("hf://a/b", "hf://a/b@c", "pvc://claim/x", "file:///m", "pip://p", "nvidia.com/gpu", "cpu", "memory"),
    *("stageline.dev/x", "stageline-x", "HOME", "RAY_X", "none", "kueue", "Exists", "NoExecute"),
)
ODD_VALUES: tuple[Any, ...] = (-1, 0, 1, 2, 7, 65, 100000, 1.5, True, False, [], {}, [{}], {"a": "b"}, *TEXTS)
KEYS = (
    "cpu",
    "memory",
    "ephemeral-storage",
    "hugepages-2Mi",
    "nvidia.com/gpu",
    "amd.com/gpu",
    "rdma/hca",
    "a",
    "a/b",
    "stageline.dev/a",
    "A b",
    "",
)
AMOUNTS = (0, 1, 2, "1", "2", "500m", "4Gi", "lots", -1)

_FORMATS = {each.format: each for each in vars(api_values).values() if isinstance(each, api_values.Text)}
_FORMAT = re.compile(r"format\.(\w+)\(\)")
_MATCHES = re.compile(r"\w\.matches\('\^\((.*?)\)\$'\)")


def _sometimes(draw: Any, times: int, of: int) -> bool:
    return bool(draw(st.integers(1, of)) <= times)


@st.composite
def from_schema(draw: Any, schema: Schema) -> Any:
    """A value that has the schema's types and is often at or beyond its bounds; each field is there or is not."""
    if schema.get("x-kubernetes-int-or-string"):
        return draw(st.sampled_from(AMOUNTS))
    if "enum" in schema:
        return draw(st.sampled_from(schema["enum"]))
    match schema["type"]:
        case "integer":
            least, most = schema.get("minimum", 0), schema.get("maximum", 10)
            some = (least, least + 1, least + 1, min(most, least + 30), most, most + 1, least - 1)
            return draw(st.sampled_from(some))
        case "boolean":
            return draw(st.booleans())
        case "string":
            return draw(_texts(_pattern(schema)))
        case "array":
            return draw(st.lists(from_schema(schema["items"]), max_size=3))
        case _ if "additionalProperties" in schema:
            keys = st.one_of(st.sampled_from(KEYS), _texts(_pattern(schema)))
            return draw(st.dictionaries(keys, from_schema(schema["additionalProperties"]), max_size=2))
        case _:
            return {
                name: draw(from_schema(inner))
                for name, inner in schema.get("properties", {}).items()
                if name in schema.get("required", ()) or _sometimes(draw, 1, 100 if _is_refused(inner) else 4)
            }


@st.composite
def mutated(draw: Any, spec: dict[str, Any], schema: Schema) -> dict[str, Any]:
    """One to three changes of a spec, wherever in it: a field removed, replaced by an odd value, or made anew from its
    schema."""
    spec = copy.deepcopy(spec)
    for _ in range(draw(st.sampled_from((1, 1, 2, 3)))):
        place, properties = draw(st.sampled_from(list(_objects(spec, schema))))
        _change(draw, place, properties)
    return spec


def for_each(
    strategy: st.SearchStrategy[Any], wanted: int, test: Callable[[Any], None], count: Callable[[], int]
) -> None:
    """Try values until there were enough different ones: the same ones each time, unless more are asked for.

    Args:
        wanted: how many different ones.
        count: how many there were so far, as ``test`` tells them apart.

    Raises:
        AssertionError: values repeat themselves too much.
    """
    for number in range(ROUNDS):
        missing = wanted * TIMES - count()
        if missing <= 0:
            return
        _try(strategy, max(missing, FEWEST), test, number)
    assert count() >= wanted * TIMES, f"{count()} different values in {ROUNDS} rounds, and {wanted * TIMES} are wanted"


def _try(strategy: st.SearchStrategy[Any], examples: int, test: Callable[[Any], None], number: int) -> None:
    @settings(
        max_examples=examples,
        database=None,
        deadline=None,
        phases=(Phase.generate,),  # a failure shows its own value; shrinking asks a server for minutes
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def run(value: Any) -> None:
        test(value)

    (seed(number)(run) if TIMES == 1 else run)()


def _change(draw: Any, place: dict[str, Any], properties: dict[str, Schema]) -> None:
    kind = draw(st.integers(0, 19))
    if kind < 3 and place:
        place.pop(draw(st.sampled_from(sorted(place))))
    elif kind < 6 and place:
        place[draw(st.sampled_from(sorted(place)))] = draw(st.sampled_from(ODD_VALUES))
    elif kind < 7:
        place[draw(st.sampled_from(("unknown", "max_num_seqs", "Replicas")))] = draw(st.sampled_from(ODD_VALUES))
    else:
        name = draw(st.sampled_from(sorted(properties)))
        place[name] = draw(from_schema(properties[name]))


def _objects(value: Any, schema: Schema) -> Iterator[tuple[dict[str, Any], dict[str, Schema]]]:
    """Every object in a value that has fields by its schema, with these; one that has another type is none."""
    if isinstance(value, dict) and schema.get("properties"):
        yield value, schema["properties"]
        for name, inner in schema["properties"].items():
            yield from _objects(value.get(name), inner)
    elif isinstance(value, list) and "items" in schema:
        for each in value:
            yield from _objects(each, schema["items"])


def _pattern(schema: Schema) -> str:
    """What a text, or the keys of a map, must match; "" where nothing is said."""
    if "pattern" in schema:
        return str(schema["pattern"]).removeprefix("^(").removesuffix(")$")
    for rule in schema.get(api_values.VALIDATIONS, ()):
        if found := _FORMAT.search(rule["rule"]):
            return _FORMATS[found[1]].pattern
        if found := _MATCHES.search(rule["rule"]):
            return found[1].replace("\\'", "'").replace("\\\\", "\\")
    return ""


@cache
def _texts(pattern: str) -> st.SearchStrategy[str]:
    """Texts that are often as they should be."""
    if not pattern:
        return st.sampled_from(TEXTS)
    fitting = tuple(text for text in TEXTS if re.fullmatch(pattern, text))
    made = st.from_regex(pattern, fullmatch=True, alphabet=st.characters(min_codepoint=32, max_codepoint=126))
    return st.one_of(made, st.sampled_from(fitting or TEXTS), st.sampled_from(TEXTS))


def _is_refused(schema: Schema) -> bool:
    return any(rule["rule"] == "false" for rule in schema.get(api_values.VALIDATIONS, ()))
