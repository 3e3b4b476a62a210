"""The README's commands of the operator do what it says of them."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
COMMANDS = re.findall(r"^    stageline-operator ([^#\n]*)", (ROOT / "README.md").read_text(), re.MULTILINE)


def run(arguments: str) -> str:
    command = [sys.executable, "-m", "stageline_operator", *shlex.split(arguments)]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize("arguments", [command for command in COMMANDS if command.startswith("render")])
def test_render_prints_the_objects(arguments: str) -> None:
    kinds = [body["kind"] for body in yaml.safe_load_all(run(arguments))]
    assert kinds.count("Pod") == 3
    assert {"Service", "NetworkPolicy", "PodDisruptionBudget"} <= set(kinds)


@pytest.mark.parametrize("arguments", [command for command in COMMANDS if command.startswith("plan")])
def test_plan_prints_the_steps(arguments: str) -> None:
    steps = run(arguments)
    assert steps.index("+ Pod demo-0-head-0") < steps.index("replica 0 is ready")


def test_the_readme_names_both() -> None:
    assert [command.split()[0] for command in COMMANDS] == ["render", "plan"]


def test_the_commands_for_a_cluster_are_those_of_the_page_that_is_tried() -> None:
    """docs/kubernetes.md: test_chart_release.py runs it on a real API server."""
    of_cluster = re.compile(r"^    ((?:helm|kubectl) [^\n]*)", re.MULTILINE)
    told = of_cluster.findall((ROOT / "README.md").read_text())
    assert len(told) == 3
    assert set(told) <= set(of_cluster.findall((ROOT / "docs/kubernetes.md").read_text()))
