"""What the operator gives pods is what joins a head and its stages: arguments, variables, keys, exit codes."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
import yaml

from stageline_engine.cli.console import fail
from stageline_engine.cli.main import app
from stageline_engine.comm.curve import KeyedContext
from stageline_engine.comm.key_file import KEY_FILE, read_keys
from stageline_engine.core.errors import EXIT_COMMUNICATION, ConfigurationError, PeerError
from stageline_engine.node.options import POD_ADDRESS, POD_NAME, parse_host
from stageline_operator.api import conditions
from stageline_operator.api import constants as c
from stageline_operator.objects.secret import group_secret
from stageline_operator.objects.volumes import KEYS_FOLDER
from stageline_operator.plan.spec import Owner

OUTPUT = Path(__file__).parents[1] / "operator" / "data" / "output"
PODS = [
    body
    for file in sorted(OUTPUT.glob("*.yaml"))
    for body in yaml.safe_load_all(file.read_text())
    if body["kind"] == "Pod"
]
STAGE_PODS = [pod for pod in PODS if pod["metadata"]["labels"][c.LABEL_ROLE] == c.ROLE_STAGE]
HEAD_PODS = [pod for pod in PODS if pod["metadata"]["labels"][c.LABEL_ROLE] == c.ROLE_HEAD]


@pytest.mark.parametrize("pod", STAGE_PODS, ids=lambda pod: pod["metadata"]["name"])
def test_a_node_takes_the_arguments_of_every_stage_pod(pod: dict[str, Any]) -> None:
    (container,) = pod["spec"]["containers"]
    _, bound, _ = app.parse_args(container["args"], exit_on_error=False, print_error=False)
    arguments = bound.arguments
    assert arguments["stage"] == int(pod["metadata"]["labels"][c.LABEL_STAGE])
    assert arguments["status_port"] == c.PORT_STATUS
    assert arguments["keys"] == Path(KEYS_FOLDER)
    assert arguments["tp"] >= 1
    assert "address" not in arguments, "the pod knows it from its environment"
    host, port = parse_host("--head", arguments["head"])
    assert port == c.PORT_CONTROL
    assert host.endswith(f".{pod['metadata']['namespace']}.svc")
    assert {POD_NAME, POD_ADDRESS} <= {variable["name"] for variable in container["env"]}


@pytest.mark.parametrize("pod", HEAD_PODS, ids=lambda pod: pod["metadata"]["name"])
def test_a_head_listens_where_its_stages_look_for_it(pod: dict[str, Any]) -> None:
    (container,) = pod["spec"]["containers"]
    _, bound, _ = app.parse_args(container["args"], exit_on_error=False, print_error=False)
    assert bound.arguments["server"].status_port == c.PORT_STATUS
    assert bound.arguments["engine"].executor == "ray"
    control = bound.arguments["control"]
    assert (control.control_port, control.keys, control.ray_address) == (c.PORT_CONTROL, Path(KEYS_FOLDER), None)
    assert POD_ADDRESS in {variable["name"] for variable in container["env"]}


def test_the_secret_of_the_group_is_a_key_for_all_of_its_pods(tmp_path: Path) -> None:
    folders = [tmp_path / "head", tmp_path / "stage"]
    secret = group_secret(Owner("ns", "demo", "uid"), lambda size: bytes(range(size)))
    for folder in folders:
        folder.mkdir()
        (folder / KEY_FILE).write_bytes(base64.b64decode(secret["data"][c.SECRET_KEY_CURVE]))
    assert KEY_FILE == c.SECRET_KEY_CURVE
    head, stage = map(read_keys, folders)
    assert head == stage
    KeyedContext(head).close()


def test_exit_codes_mean_the_same_to_both() -> None:
    assert conditions.EXIT_COMMUNICATION == EXIT_COMMUNICATION == fail(PeerError("gone"))
    assert fail(ConfigurationError("--tp", 3, "give 2")) == conditions.EXIT_CONFIGURATION
