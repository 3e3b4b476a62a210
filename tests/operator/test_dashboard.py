"""The chart's dashboard of the operator, answered by a real Prometheus that scrapes a real operator at work."""

from __future__ import annotations

import itertools
import threading
from pathlib import Path

from support import boards, specs
from support.board_pictures import draw_if_asked
from support.prometheus import Target, prometheus
from support.running.scene import Scene


def test_every_panel_and_variable_of_the_operator_shows_data(scene: Scene, tmp_path: Path) -> None:
    operator = scene.run_operator()
    scene.apply(specs.resource({}))
    scene.wait_phase("Ready")
    stop = threading.Event()
    person = threading.Thread(target=keep_changing, args=(scene, stop))
    person.start()
    try:
        with prometheus(tmp_path, [Target(f"127.0.0.1:{operator.port}", {"pod": "stageline-0"})]) as server:
            boards.assert_shows_data(boards.read("operator"), server)
            draw_if_asked("operator", boards.read("operator"), server)
    finally:
        stop.set()
        person.join()


def keep_changing(scene: Scene, stop: threading.Event) -> None:
    for replicas in itertools.cycle((2, 1)):
        if stop.wait(0.5):
            return
        scene.change(replicas=replicas)
