"""`stageline top` on a real server, and what a real server's scrape has."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from stageline_engine.server import metric_names as names
from support.serving import Served, serving
from support.tiny_models import LAYERS, tiny_model

FLAGS = ("--stages", "2", "--max-model-len", "256", "--kv-memory", "16MiB", "--threads", "1")
COMMAND = [sys.executable, "-m", "stageline_engine", "top"]


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving(tiny_model("llama"), *FLAGS, "--served-model-name", "tiny") as running:
        running.wait_ready()
        yield running


def rows(table: str) -> list[list[str]]:
    """The cells of the lines that begin with a stage's number, those of the same unit joined."""
    lines = [line.split() for line in table.splitlines() if re.match(r"\s*\d+\s+\d+\s+\d+\s", line)]
    assert lines, table
    return lines


def test_one_table_has_a_line_for_each_stage_whose_shares_add_up(served: Served) -> None:
    body = {"model": "tiny", "prompt": "hello", "max_tokens": 200, "ignore_eos": True, "stream": True}
    with served.client() as client, client.stream("POST", "/v1/completions", json=body) as answer:
        next(answer.iter_lines())
        done = subprocess.run([*COMMAND, served.url, "--once", "--interval", "1"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^tiny +epoch 1 +[\d.,]+ tokens/s", done.stdout), done.stdout
    assert "KV " in done.stdout
    stages = rows(done.stdout)
    assert [line[0] for line in stages] == ["0", "1"]
    assert sum(int(line[1]) for line in stages) == LAYERS
    for line in stages:
        shares = [int(cell.removesuffix("%")) for cell in line[3:10]]
        assert sum(shares) == pytest.approx(100, abs=4), "seven rounded shares"
    assert max(map(len, done.stdout.splitlines())) <= 100
    assert "…" not in done.stdout
    assert re.search(r"efficiency \d+%$", done.stdout, re.MULTILINE)


def test_tables_follow_each_other_until_the_person_leaves(served: Served) -> None:
    command = [*COMMAND, served.url, "--interval", "0.2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        seen = 0
        for line in process.stdout:
            seen += line.startswith("tiny ")
            if seen == 3:
                process.send_signal(signal.SIGINT)
                break
        rest = process.stdout.read()
    assert process.returncode == 0, rest


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("http://127.0.0.1:1", "give the address of a server that runs"),
        ("127.0.0.1:8000", "give a server's address, as http://"),
        ("http://", "give a server's address, as http://"),
    ],
)
def test_an_address_without_a_server_is_told(url: str, told: str) -> None:
    done = subprocess.run([*COMMAND, url, "--once"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith(f"stageline: URL='{url}'")
    assert told in done.stderr


def test_a_wrong_interval_is_told(served: Served) -> None:
    done = subprocess.run([*COMMAND, served.url, "--interval", "0"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("stageline: --interval=0")


def test_a_real_servers_scrape_has_every_documented_metric_and_no_other(served: Served) -> None:
    body = {"model": "tiny", "prompt": "hello", "max_tokens": 3}
    assert httpx.post(f"{served.url}/v1/completions", json=body, timeout=60).status_code == 200
    text = httpx.get(f"{served.url}/metrics").text
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert set(families) == {metric.full_name.removesuffix("_total") for metric in names.ALL}
    for metric in names.ALL:
        family = families[metric.full_name.removesuffix("_total")]
        assert family.type == metric.kind
        assert family.samples, metric
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == {names.MODEL_NAME, *metric.labels}, sample
