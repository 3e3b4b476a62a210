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
PAGES = ("README.md", "docs/tuning.md", "docs/upgrade.md")
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


def test_every_command_of_the_readme_is_tried() -> None:
    """By whom: what is in none of these has to get a test."""
    readme = re.sub(r"^```.*?^```", "", (ROOT / "README.md").read_text(), flags=re.MULTILINE | re.DOTALL)
    told = {line.partition(" #")[0].strip() for line in re.findall(r"^    (\S[^\n]*)", readme, re.MULTILINE)}
    makefile = (ROOT / "Makefile").read_text()
    (model,) = re.findall(r"^MODEL \?= (.*)", makefile, re.MULTILINE)
    (served,) = re.findall(r"^demo:.*\n\t\$\(BIN\)/(.*) --port", makefile, re.MULTILINE)
    of_the_demo = {
        command for command in told if command.startswith(("stageline plan", "stageline bench", "stageline top"))
    }
    assert len(of_the_demo) == 3, "test_demo_model.py runs three, `make demo`, and the two programs in Python"
    tried = of_the_demo | {"make demo", ". .venv/bin/activate", served.replace("$(MODEL)", model)}
    tried |= {f"stageline-operator {command.strip()}" for command in COMMANDS}
    tried |= set(re.findall(r"^    ((?:helm|kubectl) [^\n]*)", (ROOT / "docs/kubernetes.md").read_text(), re.MULTILINE))
    tried |= set(re.findall(r"^make .*", (ROOT / ".ci" / "run").read_text(), re.MULTILINE))
    assert told - tried == set()


def test_the_commands_for_a_cluster_are_those_of_the_page_that_is_tried() -> None:
    """docs/kubernetes.md: test_chart_release.py runs it on a real API server."""
    of_cluster = re.compile(r"^    ((?:helm|kubectl) [^\n]*)", re.MULTILINE)
    tried = set(of_cluster.findall((ROOT / "docs/kubernetes.md").read_text()))
    assert len(of_cluster.findall((ROOT / "README.md").read_text())) == 3
    for page in PAGES:
        assert set(of_cluster.findall((ROOT / page).read_text())) <= tried, page
