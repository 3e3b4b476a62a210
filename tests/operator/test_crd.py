"""The definition and the reference are made from the types, and stay within what a cluster bears."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from stageline_operator.api.spec import InferenceDeploymentSpec
from stageline_operator.schema.crd import custom_resource_definition
from stageline_operator.schema.structural import structural
from support import specs

Schema = dict[str, Any]

MADE = {
    "crds/inferencedeployments.stageline.dev.yaml": "crd",
    "charts/stageline/files/inferencedeployments.yaml": "crd",
    "docs/infdep.md": "docs",
}
VERBS = {
    *("add", "begin", "change", "correct", "delete", "give", "keep", "leave", "let", "lower", "make", "prepare"),
    *("raise", "remove", "set", "shorten", "take", "use", "write"),
}
FREE = "x-kubernetes-preserve-unknown-fields"


def whole_schema() -> Schema:
    (version,) = custom_resource_definition()["spec"]["versions"]
    schema: Schema = version["schema"]["openAPIV3Schema"]
    return schema


def nodes(schema: Schema, path: str = "") -> Iterator[tuple[str, Schema]]:
    """Every node of a schema with its path."""
    yield path, schema
    for name, inner in schema.get("properties", {}).items():
        yield from nodes(inner, f"{path}.{name}")
    for key, mark in (("items", "[]"), ("additionalProperties", "{}")):
        if key in schema:
            yield from nodes(schema[key], path + mark)


@pytest.mark.parametrize(("file", "command"), MADE.items())
def test_a_made_file_is_what_the_command_prints(file: str, command: str) -> None:
    printed = subprocess.run(
        [sys.executable, "-m", "stageline_operator", command], capture_output=True, text=True, check=True
    ).stdout
    assert (specs.ROOT / file).read_text() == printed, f"make generate writes {file}"


def test_the_definition_is_small_enough_for_one_annotation() -> None:
    assert specs.CRD_FILE.stat().st_size <= 256 * 1024


def test_everything_in_the_schema_is_bounded() -> None:
    """The server's budget for rules counts the largest that the schema allows."""
    unbounded = []
    for path, node in nodes(whole_schema()):
        if path in ("", ".metadata"):
            continue
        match node.get("type"):
            case "string":
                ok = "maxLength" in node or "enum" in node
            case "array":
                ok = "maxItems" in node
            case "integer":
                ok = ("minimum" in node and "maximum" in node) or "false" in json.dumps(node)
            case "object":
                ok = "properties" in node or "maxProperties" in node
            case "boolean":
                ok = True
            case None:
                ok = bool(node.get("x-kubernetes-int-or-string")) and "maxLength" in node
            case _:
                ok = False
        if not ok:
            unbounded.append(path)
    assert unbounded == []


def test_unknown_fields_are_kept_only_where_they_are_refused() -> None:
    for path, node in nodes(structural(InferenceDeploymentSpec)):
        if node.get(FREE):
            field = path.removesuffix("[]")
            (refusing,) = [
                inner for inner_path, inner in nodes(structural(InferenceDeploymentSpec)) if inner_path == field
            ]
            assert [rule["rule"] for rule in refusing["x-kubernetes-validations"]] == ["false"], path


def test_every_field_is_described_where_its_type_first_appears() -> None:
    described: set[str] = set()
    for path, node in nodes(whole_schema()):
        for name, inner in node.get("properties", {}).items():
            if inner.get("description", "").endswith("."):
                described.add(name)
            elif path:
                assert name in described, f"{path}.{name} has no text"


def test_every_message_of_a_rule_says_what_to_do() -> None:
    """Remedies are imperatives: the list of verbs is closed, so that a new message is looked at."""
    for path, node in nodes(whole_schema()):
        for rule in node.get("x-kubernetes-validations", []):
            assert VERBS & set(re.split(r"[ ,;:]+", rule["message"])), f"{path}: {rule['message']}"


def test_the_file_is_plain_yaml_that_needs_no_anchors() -> None:
    text = specs.CRD_FILE.read_text()
    assert yaml.safe_load(text) == custom_resource_definition()
    assert "&id" not in text
