"""`render` and `plan`, input and output side by side in data/. ``GOLDEN=write pytest`` writes outputs anew."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import yaml

from stageline_operator.cli.main import app
from support.golden import assert_golden

DATA = Path(__file__).parent / "data"
INPUTS = sorted(file for file in (DATA / "input").glob("*.yaml") if not file.name.endswith(".since.yaml"))
RENDERED = [file for file in INPUTS if not file.name.startswith("plan-")]
EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.yaml"))
PLANNED = [file for file in INPUTS if file.name.startswith("plan-")]


def _run(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    app(list(arguments), exit_on_error=False, print_error=False, result_action="return_value")
    return capsys.readouterr().out


def _flags(file: Path) -> list[str]:
    """What a file's comment says that the cluster has."""
    lines = [line.removeprefix("# flags: ") for line in file.read_text().splitlines() if line.startswith("# flags: ")]
    return shlex.split(" ".join(lines))


@pytest.mark.parametrize("file", RENDERED, ids=lambda file: file.stem)
def test_render_prints_the_objects(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert_golden(DATA / "output" / file.name, _run(capsys, "render", str(file), *_flags(file)))


@pytest.mark.parametrize("file", PLANNED, ids=lambda file: file.stem)
def test_plan_prints_the_steps(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    since = file.with_suffix(".since.yaml")
    arguments = ["--since", str(since)] if since.exists() else []
    assert_golden((DATA / "output" / file.name).with_suffix(".txt"), _run(capsys, "plan", str(file), *arguments))


def test_every_output_has_an_input() -> None:
    wanted = {file.name for file in RENDERED} | {file.with_suffix(".txt").name for file in PLANNED}
    assert {file.name for file in (DATA / "output").iterdir()} == wanted


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_every_example_renders(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = [body["kind"] for body in yaml.safe_load_all(_run(capsys, "render", str(file)))]
    assert {"Pod", "Service", "Secret", "PodDisruptionBudget"} <= set(made)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "it is not YAML"),
        ("kind: Pod", "it has no object of apiVersion stageline.dev/v1alpha1 and kind InferenceDeployment"),
    ],
)
def test_a_file_without_a_resource_is_refused(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "wrong.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match=message):
        app(["render", str(file)], exit_on_error=False, print_error=False, result_action="return_value")


@pytest.mark.parametrize("more", [["--kubeconfig", "x"], ["--live", "--volcano"], ["--live", "--since", "x"]])
def test_flags_that_would_have_no_effect_are_refused(more: list[str]) -> None:
    with pytest.raises(ValueError, match="leave"):
        app(["plan", str(PLANNED[0]), *more], exit_on_error=False, print_error=False, result_action="return_value")


def test_a_plan_of_a_change_that_the_server_refuses_is_refused(tmp_path: Path) -> None:
    before = tmp_path / "before.yaml"
    before.write_text((DATA / "input" / "gang-volcano.yaml").read_text())
    after = tmp_path / "after.yaml"
    after.write_text(before.read_text().replace("queueName: research", "queueName: other"))
    with pytest.raises(ValueError, match=r"spec\.scheduling\.queueName is immutable"):
        app(
            ["plan", str(after), "--since", str(before), "--volcano"],
            exit_on_error=False,
            print_error=False,
            result_action="return_value",
        )
