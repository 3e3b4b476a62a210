"""What a machine reads of the logs: every line is a JSON object, and says which process, stage and request it is of."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import httpx
import pytest

from stageline_engine.cli.console import begin_logging
from stageline_engine.core.errors import ConfigurationError
from support.serving import Served, end, start_serving
from support.tiny_models import tiny_model

REQUEST_ID = "one-of:the/client's+own".replace("'", "_")
"""With each kind of character that is let in."""
WORDS = re.compile(r"[a-z_]+")


class Logged:
    """A server of two stages that has answered a request and ended."""

    def __init__(self, answer: httpx.Response, given: httpx.Response, lines: list[str]) -> None:
        self.answer = answer
        self.given = given
        self.lines = lines

    def objects(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines]

    def of_request(self, role: str) -> list[dict[str, Any]]:
        return [line for line in self.objects() if line.get("request_id") == REQUEST_ID and line["role"] == role]


@pytest.fixture(scope="module")
def logged() -> Iterator[Logged]:
    folder = tiny_model("llama")
    flags = ("--stages", "2", "--threads", "1", "--served-model-name", "tiny", "--max-model-len", "256")
    served = start_serving(folder, *flags, "--log-level", "debug", "--log-format", "json")
    try:
        url = _url(served)
        body = {"model": "tiny", "prompt": "hello", "max_tokens": 4, "ignore_eos": True}
        with httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
            answer = client.post("/v1/completions", json=body, headers={"X-Request-Id": REQUEST_ID})
            given = client.post("/v1/completions", json=body, headers={"X-Request-Id": "no\tid"})
        served.signal(signal.SIGTERM)
        assert served.wait_exit() == 0, served.log
        yield Logged(answer, given, served.lines)
    finally:
        end(served)


def _url(served: Served) -> str:
    served.wait_line("ready: tiny on ")
    [line] = [line for line in served.lines if "ready: tiny on " in line]
    return str(json.loads(line)["message"]).rpartition(" ")[2]


def test_every_line_is_an_object_with_the_same_keys(logged: Logged) -> None:
    for line in logged.objects():
        assert {"time", "level", "logger", "message", "role"} <= set(line), line
        assert datetime.fromisoformat(line["time"]).tzinfo is not None
        assert line["level"] in ("DEBUG", "INFO", "WARNING", "ERROR")
        assert all(WORDS.fullmatch(key) for key in line)
    assert {line["role"] for line in logged.objects()} == {"api-server", "engine-core", "rank"}


def test_a_request_can_be_followed_through_all_processes_by_its_id(logged: Logged) -> None:
    (access,) = [line for line in logged.of_request("api-server") if "status" in line]
    assert (access["method"], access["path"], access["status"]) == ("POST", "/v1/completions", 200)
    core, ranks = logged.of_request("engine-core"), logged.of_request("rank")
    planned = [(line["step"], line["start"], line["rows"]) for line in core if "step" in line]
    assert [start for _, start, _ in planned] == sorted(start for _, start, _ in planned)
    for stage in (0, 1):
        of_stage = [line for line in ranks if line["stage"] == stage]
        assert [(line["step"], line["start"], line["rows"]) for line in of_stage] == planned
        assert all((line["rank"], line["epoch"]) == (0, 1) for line in of_stage)


def test_the_client_is_told_the_id(logged: Logged) -> None:
    assert logged.answer.headers["x-request-id"] == REQUEST_ID
    assert logged.answer.json()["id"] == f"cmpl-{REQUEST_ID}"


def test_an_id_that_cannot_stand_in_a_log_is_replaced(logged: Logged) -> None:
    given = logged.given.headers["x-request-id"]
    assert re.fullmatch("[0-9a-f]{32}", given)
    assert logged.given.json()["id"] == f"cmpl-{given}"


def test_a_mistake_in_the_flags_is_an_object_too() -> None:
    command = [sys.executable, "-m", "stageline_engine", "serve", "/nowhere", "--log-format", "json", "--stages", "0"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    (line,) = [json.loads(line) for line in ended.stderr.splitlines()]
    assert line["level"] == "ERROR"
    assert "--stages" in line["message"]


@pytest.mark.parametrize(
    ("level", "log_format", "flag", "remedy"),
    [("info", "xml", "--log-format", "text, json"), ("loud", "text", "--log-level", "debug")],
)
def test_other_formats_and_levels_are_refused(level: str, log_format: str, flag: str, remedy: str) -> None:
    with pytest.raises(ConfigurationError, match=remedy) as refused:
        begin_logging(level, log_format, "api-server")
    assert refused.value.field == flag
