"""Stages on other machines, in network namespaces of this one: `stageline node` joins a head, and does what it says."""

from __future__ import annotations

import signal
import time
from functools import partial
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from stageline_engine.comm.key_file import KEY_FILE
from stageline_engine.core.errors import StageFailedError
from stageline_engine.node import metrics as node_metrics
from stageline_engine.sources.integrity import read_header
from support.executor_driver import tokens_of_one_process
from support.hub_server import COMMIT, running_hub
from support.namespaces import Machine
from support.nodes import (
    PATIENCE_SECONDS,
    STATUS_PORT,
    Head,
    Nodes,
    make_keys,
    probe,
    pump,
    remote_settings,
    wait_all_dead,
)
from support.serving import Served
from support.tiny_models import LAYERS, tiny_model

PROMPTS = [[5, 9, 2, 71, 30, 8, 1], [200, 3], [17, 18, 19, 20, 21, 22, 23, 24, 25], [99]]
MAX_TOKENS = 9
BOUNDS = (0, 2, LAYERS)


@pytest.fixture(scope="module")
def folder() -> Path:
    return tiny_model("llama")


@pytest.fixture(scope="module")
def expected(folder: Path) -> list[list[int]]:
    return tokens_of_one_process(folder, PROMPTS, MAX_TOKENS)


def check_metrics(machine: Machine, stage: int, ranks: int) -> None:
    """A scrape of a node whose ranks have run steps has what is documented, and nothing else."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        status, text = probe(machine, "/metrics")
        families = {family.name: family for family in text_string_to_metric_families(text)}
        seen: dict[str, list[tuple[dict[str, str], float]]] = {}
        for family in families.values():
            for sample in family.samples:
                seen.setdefault(sample.name, []).append((sample.labels, sample.value))
        if all(value > 0 for _, value in seen["stageline_rank_steps_total"]):
            break
        assert time.monotonic() < deadline, text
    assert status == 200
    assert {(family.name, family.type, family.documentation) for family in families.values()} == {
        (metric.full_name.removesuffix("_total"), metric.kind, metric.help) for metric in node_metrics.ALL
    }
    for metric in node_metrics.ALL:
        samples = seen[metric.full_name]
        assert all(set(labels) == {"stage", *metric.labels} for labels, _ in samples)
        assert {labels["stage"] for labels, _ in samples} == {str(stage)}
        if "rank" in metric.labels:
            assert {labels["rank"] for labels, _ in samples} == {str(rank) for rank in range(ranks)}
    for name in ("node_ready", "node_head_heard", "node_epoch"):
        assert [value for _, value in seen[f"stageline_{name}"]] == [1]
    counted = (
        "busy_seconds_total",
        "resident_bytes",
        "weight_bytes",
        "kv_cache_bytes",
        "load_seconds",
        "step_rows_total",
    )
    for name in counted:
        assert all(value > 0 for _, value in seen[f"stageline_rank_{name}"]), name
    # Each rank of the next stage gets the whole of the activations, from one rank of this stage.
    assert sum(value for _, value in seen["stageline_rank_boundary_bytes_total"]) > 0


@pytest.mark.parametrize("tp", [(1, 1), (2, 1)], ids=["tp1-tp1", "tp2-tp1"])
def test_nodes_give_the_tokens_of_one_process(
    nodes: Nodes, folder: Path, expected: list[list[int]], tp: tuple[int, int]
) -> None:
    head = Head(nodes.network, nodes.keys, remote_settings(folder, BOUNDS, tp))
    # One comes before the head, the other one after it.
    early = nodes.start(0, tp=tp[0])
    early.wait_line("waiting for the head")
    machine = nodes.network.machines[0]
    assert probe(machine, "/live") == (200, "ok")
    assert probe(machine, "/ready") == (503, "the head is not there")
    assert probe(machine, "/state")[0] == 404

    def on_line(line: str) -> None:
        if line == "waiting for stage 1 of 2":
            nodes.start(1, tp=tp[1])

    head.on_line = on_line
    try:
        started = head.start()
        assert [loaded.stage for loaded in started.loaded] == [0] * tp[0] + [1] * tp[1]
        assert head.driver().generate(PROMPTS, MAX_TOKENS) == expected
        assert all(resident > 0 for resident in head.executor.resident_bytes())
        early.wait_line("stage 0 is a member of epoch 1")
        assert probe(machine, "/ready") == (200, "ok")
        check_metrics(machine, 0, ranks=tp[0])
        assert [state for _, state in head.states_of(0)] == ["absent", "loading", "member"]
        assert head.states_of(1)[-1] == ("pod-1", "member")
        assert head.states[-1].epoch == 1
    finally:
        head.executor.close()
    assert [node.wait_exit() for node in nodes.started] == [0, 0]


def test_a_lost_node_is_named_and_the_other_one_joins_the_next_head(
    nodes: Nodes, folder: Path, expected: list[list[int]]
) -> None:
    settings = remote_settings(folder, BOUNDS, (1, 1))
    head = Head(nodes.network, nodes.keys, settings)
    survivor, victim = nodes.start(0), nodes.start(1)
    try:
        head.start()
        driver = head.driver()
        assert driver.generate(PROMPTS, MAX_TOKENS) == expected
        ranks = victim.family()[1:]
        victim.signal(signal.SIGKILL)
        with pytest.raises(StageFailedError, match="pod-1") as caught:
            driver.wait_for(10**6)
        assert caught.value.stage == 1
        assert head.states_of(1)[-1] == ("pod-1", "lost")
        wait_all_dead(ranks)
    finally:
        head.executor.close("stage 1 failed")
    survivor.wait_line("the head ends: stage 1 failed")

    # Another head in its place. SIGTERM is told as a farewell, and leaves nothing.
    head = Head(nodes.network, nodes.keys, settings)
    successor = nodes.start(1)
    try:
        head.start()
        driver = head.driver()
        assert driver.generate(PROMPTS, MAX_TOKENS) == expected
        family = successor.family()
        successor.signal(signal.SIGTERM)
        with pytest.raises(StageFailedError, match="it was told to end") as caught:
            driver.wait_for(10**6)
        assert caught.value.stage == 1
        assert successor.wait_exit() == 0
        wait_all_dead(family)
    finally:
        head.executor.close()
    assert survivor.wait_exit() == 0


def test_a_stage_that_is_told_to_end_stays_while_its_head_drains(
    nodes: Nodes, folder: Path, expected: list[list[int]]
) -> None:
    head = Head(nodes.network, nodes.keys, remote_settings(folder, BOUNDS, (1, 1)))
    for number in (0, 1):
        nodes.start(number)
    try:
        head.start()
        # As in pods: stages are told first, and the head a while later.
        for node in nodes.started:
            node.signal(signal.SIGTERM)
            node.wait_line("asking the head whether it drains")
        head.executor.drain()
        driver = head.driver()
        while not all(
            any(f"pod-{number} at" in line and "told to end" in line for line in head.lines) for number in (0, 1)
        ):
            driver.sockets[0].poll(100)  # type: ignore[union-attr]
            assert head.executor.poll() == []
        assert driver.generate(PROMPTS, MAX_TOKENS) == expected
        assert [node.process.poll() for node in nodes.started] == [None, None]
    finally:
        head.executor.close()
    assert [node.wait_exit() for node in nodes.started] == [0, 0]


def test_each_node_fetches_its_own_stage_and_nothing_else(
    nodes: Nodes, folder: Path, expected: list[list[int]], tmp_path: Path
) -> None:
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    weights = list(folder.glob("*.safetensors"))
    with running_hub("org/tiny", files, nodes.network.address) as hub:
        head = Head(nodes.network, nodes.keys, remote_settings(folder, BOUNDS, (2, 1), f"hf://org/tiny@{COMMIT}"))
        for number, tp in enumerate((2, 1)):
            own = {
                "HF_ENDPOINT": hub.url,
                "HF_HUB_OFFLINE": "0",
                "HF_HOME": str(tmp_path / f"hf-{number}"),
                "XDG_CACHE_HOME": str(tmp_path / f"cache-{number}"),
                "STAGELINE_CACHE": "",
            }
            nodes.start(number, tp=tp, env=own)
        try:
            head.start()
            assert head.driver().generate(PROMPTS, MAX_TOKENS) == expected
        finally:
            head.executor.close()
        headers = sum(read_header(file).length for file in weights)
        total = sum(file.stat().st_size for file in weights)
        # Each node reads the headers, to know where its tensors are. No tensor is read by both.
        assert hub.sent_weights() == total + headers


def has_ended(node: Served) -> bool:
    return node.process.poll() is not None


def test_a_node_that_does_not_fit_is_refused_on_both_sides(nodes: Nodes, folder: Path, tmp_path: Path) -> None:
    head = Head(nodes.network, nodes.keys, remote_settings(folder, BOUNDS, (1, 2)))
    with head.listening() as host:
        for number, stage, tp, words in (
            (0, 0, 2, "--tp=2: the head was started with a --tp of 1 for stage 0"),
            (1, 2, 1, "--stage=2: the head has 2 stages"),
        ):
            node = nodes.start(number, stage=stage, tp=tp)
            pump(host, partial(has_ended, node))
            assert node.wait_exit() == 2
            assert words in node.log
            assert any(f"refused pod-{number}" in line and words in line for line in head.lines)

        stranger = nodes.start(1, tp=2, keys=make_keys(tmp_path / "other"))
        pump(host, partial(has_ended, stranger))
        assert stranger.wait_exit() == 75
        assert "does not take the key of --keys" in stranger.log
        assert head.states_of(1) == [("", "absent")]


def test_of_two_nodes_for_one_stage_the_one_that_answers_stays(
    nodes: Nodes, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One that comes too early is refused and started again, as by a kubelet; until then the silent one keeps its place.
    monkeypatch.setattr("stageline_engine.executor.remote_nodes.SILENT_SECONDS", 60.0)
    head = Head(nodes.network, nodes.keys, remote_settings(folder, BOUNDS, (1, 1)))
    with head.listening() as host:
        first = nodes.start(0)
        pump(host, lambda: head.states_of(0)[-1] == ("pod-0", "loading"))
        second = nodes.start(1, stage=0)
        pump(host, lambda: second.process.poll() is not None)
        assert second.wait_exit() == 75
        assert "stage 0 has a node that answers: pod-0" in second.log

        first.signal(signal.SIGSTOP)
        successors = [nodes.start(1, stage=0)]

        def takes_over() -> bool:
            if successors[-1].process.poll() is not None:
                successors.append(nodes.start(1, stage=0))
            return head.states_of(0)[-1] == ("pod-1", "loading")

        pump(host, takes_over)
        successors[-1].wait_line("stage 0 of 2")
        assert ("pod-0", "lost") in head.states_of(0)


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "No such file"), (b"", "the file has 0 bytes"), (bytes(33), "the file has more than 32 bytes")],
    ids=["missing", "empty", "long"],
)
def test_a_key_that_is_none_is_told_at_once(nodes: Nodes, tmp_path: Path, content: bytes | None, words: str) -> None:
    folder = tmp_path / "bad"
    folder.mkdir()
    if content is not None:
        (folder / KEY_FILE).write_bytes(content)
    node = nodes.start(0, keys=folder)
    assert node.wait_exit() == 2
    assert f"--keys='{folder / KEY_FILE}': {words}" in node.log


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"--address": "192.0.2.1"}, "--address='192.0.2.1': no network interface has"),
        ({"--head": "nowhere"}, "--head='nowhere': write HOST:PORT"),
        ({"--status-port": "1000000"}, "--status-port=1000000"),
    ],
)
def test_arguments_that_cannot_be_are_told_at_once(nodes: Nodes, more: dict[str, str], words: str) -> None:
    node = nodes.start(0, more=more)
    assert node.wait_exit() == 2
    assert words in node.log


def test_a_status_port_in_use_is_told_at_once(nodes: Nodes) -> None:
    nodes.start(0).wait_line("waiting for the head")
    node = nodes.start(0)
    assert node.wait_exit() == 2
    assert f"--status-port='{nodes.network.machines[0].address}:{STATUS_PORT}': Address already in use" in node.log
