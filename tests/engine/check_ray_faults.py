"""What Ray's parts do when others of them die; each takes Ray's own time to notice. Run by `make ray`."""

from __future__ import annotations

from collections.abc import Iterator

import psutil
import pytest

from stageline_engine.ray_cluster.messages import Ended
from support.ray_machines import (
    Cluster,
    StandInNode,
    own_ray,
    placed,
    raylet_of,
    stand_ins_of,
    wait_for,
    wait_for_event,
)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with own_ray(tmp_path_factory.mktemp("nodes")) as made:
        yield made


@pytest.fixture
def stand_ins(cluster: Cluster) -> Iterator[list[StandInNode]]:
    with stand_ins_of(cluster) as made:
        yield made


def test_a_killed_raylet_is_told_and_its_node_joins_again(cluster: Cluster, stand_ins: list[StandInNode]) -> None:
    actors = cluster.actors(stages=2)
    try:
        placed(actors)
        raylet_of(cluster.nodes[1]).kill()
        ended = wait_for_event(actors, Ended)
        assert isinstance(ended, Ended) and ended.stage == 1 and ended.node is None
        assert "its node has died" in ended.reason
    finally:
        actors.close()
    again = cluster.actors(stages=2)
    try:
        assert [home.address for home in placed(again)] == cluster.network.addresses[1:]
    finally:
        again.close()


def test_nodes_join_a_head_that_comes_back(cluster: Cluster, stand_ins: list[StandInNode]) -> None:
    for process in psutil.Process(cluster.head._ray.pid).children():
        process.kill()
    wait_for(cluster.head.has_ended, "a part of the head was killed, and the rest lives on")
    cluster.replace_head()
    actors = cluster.actors(stages=2)
    try:
        assert [home.address for home in placed(actors)] == cluster.network.addresses[1:]
    finally:
        actors.close()
