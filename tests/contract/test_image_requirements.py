"""The images hold what the tests ran with."""

from __future__ import annotations

from pathlib import Path

import pytest

REQUIREMENTS = Path(__file__).parents[2] / "requirements"


@pytest.mark.parametrize("file", ["operator.txt", "engine.txt", "torch.txt"])
def test_every_version_in_an_image_is_the_one_that_tests_run_with(file: str) -> None:
    tested = set((REQUIREMENTS / "dev.txt").read_text().splitlines())
    shipped = set((REQUIREMENTS / file).read_text().splitlines())
    assert shipped - tested == set(), "run `make requirements`"


def test_the_operators_image_has_no_torch() -> None:
    assert not any(line.startswith(("torch", "nvidia")) for line in (REQUIREMENTS / "operator.txt").read_text().split())
