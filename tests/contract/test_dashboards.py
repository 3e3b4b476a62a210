"""The chart's dashboards: what is generated is what lies in the chart, and a real Prometheus answers every panel."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import boards
from support.board_pictures import draw_if_asked
from support.boards import FILES
from support.kube.waiting import wait_until
from support.prometheus import Prometheus, Target, prometheus
from support.serving import Served, serving
from support.tiny_models import tiny_model

CHARTS = Path(__file__).parents[2] / "charts"
LABELS = {"namespace": "team", "pod": "demo-0-head-0", "stageline_dev_name": "demo", "stageline_dev_replica": "0"}


def test_the_chart_has_what_the_code_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(CHARTS))
    from dashboards.all_boards import BOARDS
    from dashboards.board import render

    assert {path.name for path in FILES.iterdir()} == {f"{board.uid}.json" for board in BOARDS}
    for board in BOARDS:
        assert (FILES / f"{board.uid}.json").read_text() == render(board), "run `make generate`"
    for name in [name for name in sys.modules if name.partition(".")[0] == "dashboards"]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """A Prometheus that scrapes a pipeline of two stages under load."""
    with serving(tiny_model("llama"), "--stages", "2", "--max-model-len", "64") as served:
        served.wait_ready()
        stop = threading.Event()
        clients = [threading.Thread(target=ask_until, args=(served, stop)) for _ in range(4)]
        for client in clients:
            client.start()
        try:
            target = Target(served.url.removeprefix("http://"), LABELS)
            with prometheus(tmp_path_factory.mktemp("prometheus"), [target]) as server:
                yield server
        finally:
            stop.set()
            for client in clients:
                client.join()


def ask_until(served: Served, stop: threading.Event) -> None:
    with served.client() as client:
        while not stop.is_set():
            body = {"model": served.model, "prompt": "hello there", "max_tokens": 20}
            client.post("/v1/completions", json=body).raise_for_status()


@pytest.mark.parametrize("name", ["overview", "pipeline"])
def test_every_panel_and_variable_of_the_engine_shows_data(watched: Prometheus, name: str) -> None:
    boards.assert_shows_data(boards.read(name), watched)
    draw_if_asked(name, boards.read(name), watched)


def test_the_shares_of_a_stage_add_up(watched: Prometheus) -> None:
    """To one; a short interval ends in the midst of steps."""
    board = boards.read("pipeline")
    titles = {"Busy", "Waiting although there is work", "Communicating", "Idle"}
    shares = [expression for title, _, expression in boards.expressions(board) if title in titles]
    assert len(shares) == len(titles)
    wait_until(lambda: watched.age() > 30, "enough steps, of which the last ones are not told yet")
    total = " + ".join(f"sum by (stage) ({share.replace('5s', '1m')})" for share in shares)
    values = {series["stage"]: value for series, value in watched.query(total)}
    assert values == {"0": pytest.approx(1, abs=0.03), "1": pytest.approx(1, abs=0.03)}
