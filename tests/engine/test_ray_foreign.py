"""A Ray that was there before: stages find machines with room, or it is said what is missing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from stageline_engine.ray_cluster.messages import CannotPlace, Ended, NodeEnded, NodeOrder, StageNeeds
from support.ray_machines import ForeignRay, foreign_ray, placed, wait_for, wait_for_event

NODE_SCRIPT = """
import pathlib, sys, time
stage, keys = sys.argv[1], sys.argv[2].removeprefix("--keys=")
print("stage", stage, "reads", pathlib.Path(keys, "curve.key").read_text(), flush=True)
while not pathlib.Path(sys.argv[0]).with_name("end-" + stage).exists():
    time.sleep(0.02)
sys.exit(7)
"""


@pytest.fixture(scope="module")
def foreign() -> Iterator[ForeignRay]:
    with foreign_ray(cpus=2) as made:
        yield made


def test_stages_in_a_foreign_ray_go_to_different_machines_and_end_with_their_driver(
    foreign: ForeignRay, tmp_path: Path
) -> None:
    script = tmp_path / "node.py"
    script.write_text(NODE_SCRIPT)
    orders = [NodeOrder(arguments=[str(script), str(stage)], keys={"curve.key": b"secret"}) for stage in range(2)]
    actors = foreign.actors(StageNeeds(cpus=1, gpus=0), orders)
    try:
        homes = placed(actors)
        assert sorted(home.address for home in homes) == foreign.network.addresses
        wait_for(lambda: len(running(script)) == 2, "nodes did not start")
        (tmp_path / "end-1").touch()
        ended = wait_for_event(actors, Ended)
        assert ended == Ended(
            stage=1, reason="its node ended", node=NodeEnded(exit_code=7, log_tail="stage 1 reads secret")
        )
        assert len(running(script)) == 1
    finally:
        actors.close()
    wait_for(lambda: not running(script), "a node outlives its driver")


def test_a_cluster_without_room_is_told_with_what_is_missing(foreign: ForeignRay) -> None:
    for needs, missing in [
        (
            StageNeeds(cpus=1, gpus=1),
            "stage 0 needs 1 GPU and 1 CPU on one machine, and the 2 machines",
        ),
        (StageNeeds(cpus=2, gpus=0), "stage 2 needs 0 GPUs and 2 CPUs on one machine, and with 2 other stages"),
    ]:
        actors = foreign.actors(needs, [NodeOrder(arguments=[], keys={})] * 3)
        try:
            refused = wait_for_event(actors, CannotPlace)
            assert isinstance(refused, CannotPlace)
            assert refused.is_input
            assert refused.reason.startswith(missing)
        finally:
            actors.close()


def running(script: Path) -> list[psutil.Process]:
    """Processes of ours that run it."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if str(script) in process.cmdline()[1:2]:
                found.append(process)
    return found
