"""docs/operator.md names what the code has."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from stageline_operator.api.conditions import Cause, Reason
from stageline_operator.api.restart import RestartBudget
from stageline_operator.decide.conditions import WORST_FIRST

PAGE = (Path(__file__).parents[2] / "docs" / "operator.md").read_text()
OUTPUTS = (Path(__file__).parent / "data" / "output").glob("*.yaml")


@pytest.mark.parametrize("reason", [*WORST_FIRST, Reason.INVALID_SPEC, Reason.OPERATOR_FAULT, Reason.NO_GANG])
def test_every_reason_to_call_a_person_is_in_the_failure_table(reason: Reason) -> None:
    assert f", {reason}" in PAGE


@pytest.mark.parametrize("cause", list(Cause))
def test_every_cause_is_there_with_its_budget(cause: Cause) -> None:
    field = cause.name.lower()
    camel = "".join(word.capitalize() if index else word for index, word in enumerate(field.split("_")))
    line = next(line for line in PAGE.splitlines() if line.startswith(f"| {cause} |"))
    assert line.endswith(f"`{camel}`, {getattr(RestartBudget(), field)} |")


def test_every_kind_of_object_is_there() -> None:
    kinds = {body["kind"] for file in OUTPUTS for body in yaml.safe_load_all(file.read_text())}
    table = {line.split("|")[1].strip() for line in PAGE.splitlines() if line.startswith("| ")}
    assert kinds <= table
