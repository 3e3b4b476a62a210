"""Each kind of call fails in every way in which a call can fail: what was to be done is done in the end, by the same
process, and no pod is touched that had nothing to do with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partial
from pathlib import Path

import pytest

from support.kube.control_plane import ControlPlane
from support.kube.fake_nodes import FakeNodes
from support.kube.restricted_pod import restricted_pod
from support.running.faulty_calls import CALLS, survive
from support.running.faulty_lists import survive_lists
from support.running.faulty_proxy import Fault, answer, answer_after, half, hang, lose_answer, reset
from support.running.scene import Scene, demo, scene_of_its_own
from support.running.together import played_together

AT_ONCE = 12
"""Namespaces at the same time: each mostly waits."""

WRITES = tuple(call for call in CALLS if not call.startswith("GET"))
SLOW = ("PATCH services", "POST pods", "PATCH inferencedeployments/status", "DELETE pods")
"""Writes that wait until they are given up: for ten seconds each."""
TAKEN = tuple(call for call in WRITES if call != "POST secrets")
"""A 409 for the Secret, whose name has the resource's uid, can only mean that it is there: see the last faults."""


def of(*faults: Fault, calls: tuple[str, ...] = CALLS) -> dict[str, tuple[Fault, ...]]:
    """The first of these calls, of each kind, meet these faults in turn."""
    return dict.fromkeys(calls, faults)


def not_there() -> dict[str, tuple[Fault, ...]]:
    """What is deleted is gone already; elsewhere the server only says so."""
    return {call: (answer_after(404),) if call.startswith("DELETE") else (answer(404), answer(410)) for call in WRITES}


FAULTS: dict[str, dict[str, tuple[Fault, ...]]] = {
    "writes hang": of(hang, calls=SLOW),
    "reads hang": of(hang, calls=("GET inferencedeployments", "GET pods")),
    "409": of(answer(409), answer(409), calls=TAKEN),
    "404 and 410": not_there(),
    "429 with Retry-After": of(answer(429, {"Retry-After": "1"})),
    "500 and 503": of(answer(500), answer(503)),
    "504 after the write was made, and half an answer": of(answer_after(504), half),
    "a connection that is reset before and after the write was made": of(reset, lose_answer),
}


def a_pods_name_is_somebody_elses(scene: Scene) -> None:
    """It is not taken over, and used when it has become free."""
    theirs = scene.api.create(restricted_pod("demo-0-s1-0", scene.namespace))
    scene.run_operator()
    scene.apply(demo())
    status = scene.wait_phase("Degraded")["status"]
    degraded = next(each for each in status["conditions"] if each["type"] == "Degraded")
    assert degraded["reason"] == "NameTaken" and "Pod demo-0-s1-0" in degraded["message"]
    assert scene.api.get("pods", "demo-0-s1-0", scene.namespace)["metadata"]["uid"] == theirs["metadata"]["uid"]
    scene.api.delete("pods", "demo-0-s1-0", scene.namespace, grace=0)
    scene.wait_phase("Ready", patience=120)


SCENES: dict[str, Callable[[Scene], None]] = {name: partial(survive, faults=faults) for name, faults in FAULTS.items()}
SCENES |= {
    "410 of lists and watches": partial(survive_lists, fault=answer(410), restarts=3),
    "429 of lists and watches": partial(survive_lists, fault=answer(429, {"Retry-After": "1"}), restarts=0),
    "500 of lists and watches": partial(survive_lists, fault=answer(500), restarts=0),
}
SCENES["a pod's name is somebody else's"] = a_pods_name_is_somebody_elses


@pytest.fixture(scope="module")
def played(
    control_plane: ControlPlane, nodes: FakeNodes, definition: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[None]]]:
    """All scenes at the same time, by name."""

    def play(name: str, folder: Path) -> None:
        with scene_of_its_own(control_plane, folder) as scene:
            SCENES[name](scene)

    with played_together(SCENES, play, tmp_path_factory.mktemp("scenes"), AT_ONCE) as outcomes:
        yield outcomes


@pytest.mark.parametrize("name", SCENES)
def test_calls_that_fail_are_made_good(played: dict[str, Future[None]], name: str) -> None:
    played[name].result()
