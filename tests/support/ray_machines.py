"""A real Ray on several machines of this one: a replica's own, and one of somebody else."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import pytest

from stageline_engine.ray_cluster import settings
from stageline_engine.ray_cluster.messages import ActorHome, NodeOrder, Place, Placed, StageNeeds
from stageline_engine.ray_cluster.node_socket import NodeDoor
from stageline_engine.ray_cluster.processes import RayHead, RayNode, Supervised, make_folder
from stageline_engine.ray_cluster.stage_actors import StageActors
from support.namespaces import Network, joined_machines

TOKEN = "0123456789abcdef0123456789abcdef"
PATIENCE = 240.0
"""Nothing here takes so long, unless it hangs."""


def wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def wait_for_event(actors: StageActors, kind: type) -> object:
    found: list[object] = []

    def has_come() -> bool:
        found.extend(event for event in actors.poll() if isinstance(event, kind))
        return bool(found)

    wait_for(has_come, f"no {kind.__name__} came")
    return found[0]


def placed(actors: StageActors, stages: int = 2) -> list[ActorHome]:
    """Wait until each stage has its actor; where they are, by stage."""
    homes: dict[int, ActorHome] = {}

    def all_placed() -> bool:
        for event in actors.poll():
            assert isinstance(event, Placed), event
            homes[event.stage] = event.home
        return len(homes) == stages

    wait_for(all_placed, "not all actors were placed")
    return [homes[stage] for stage in sorted(homes)]


class StandInNode:
    """In the place of `stageline node`: lives until it is closed."""

    def __init__(self, stage: int, folder: Path) -> None:
        self._door = NodeDoor(str(folder / f"node-{stage}"))
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while not self._ended.wait(0.01):
            self._door.poll()

    def close(self) -> None:
        self._ended.set()
        self._thread.join()
        self._door.close()


class Cluster:
    """A replica's Ray: its head on machine 0, stage S on machine S + 1."""

    def __init__(self, network: Network, folder: Path, stages: int, leave: ExitStack) -> None:
        self.network = network
        self.folder = folder
        self.nodes: list[RayNode] = []
        address = network.addresses[0]
        self._leave = leave
        self.replace_head()
        for stage in range(stages):
            with network.machines[stage + 1].entered() as here:
                self.nodes.append(RayNode(address, stage, here, str(folder / f"node-{stage}")))
                leave.callback(self.nodes[-1].close)
            # One after the other: Ray's helpers have 15 s each to import.
            wait_for(self.nodes[-1].is_up, "a node did not join")

    def replace_head(self) -> None:
        with self.network.machines[0].entered() as address:
            self.head = RayHead(address)
            self._leave.callback(self.head.close)
            self.address = self.head.address
        wait_for(self.head.is_up, "the head did not start")

    def actors(self, stages: int, patience: float = PATIENCE) -> StageActors:
        with self.network.machines[0].entered():
            return StageActors(Place(address=self.address, namespace="test", stages=stages, patience=patience))


@contextmanager
def with_token() -> Iterator[None]:
    """Ray's token in the environment."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", TOKEN)
        yield


@contextmanager
def own_ray(folder: Path) -> Iterator[Cluster]:
    """The Ray of a replica with two stages; nodes of stages look for their sockets in ``folder``."""
    with with_token(), joined_machines(3) as network, ExitStack() as leave:
        yield Cluster(network, folder, 2, leave)


@contextmanager
def stand_ins_of(cluster: Cluster) -> Iterator[list[StandInNode]]:
    """A node for each stage."""
    nodes = [StandInNode(stage, cluster.folder) for stage in range(2)]
    yield nodes
    for node in nodes:
        node.close()


class ForeignRay:
    """A Ray of somebody else: two machines with some CPUs each, which know nothing of stages."""

    def __init__(self, network: Network, cpus: int, leave: ExitStack) -> None:
        self.network = network
        variables = settings.environment(os.environ)
        self.address = f"{network.addresses[0]}:{settings.PORT_GCS}"
        joining = f"--wait-for={self.address}"
        for machine in range(2):
            with network.machines[machine].entered() as address:
                folder = make_folder()
                command = [
                    *(
                        settings.head_command(address, folder)
                        if machine == 0
                        else settings.stage_command(network.addresses[0], 99, address, folder)
                    ),
                    f"--num-cpus={cpus}",
                ]
                ray = Supervised(command, variables, folder, ["--again", *([joining] if machine else [])])
                leave.callback(ray.close)
                wait_for((folder / settings.ADDRESS_FILE).exists, "Ray did not start")

    def actors(self, needs: StageNeeds, orders: list[NodeOrder]) -> StageActors:
        place = Place(
            address=self.address, namespace="test", stages=len(orders), needs=[needs] * len(orders), orders=orders
        )
        with self.network.machines[0].entered():
            return StageActors(place)


@contextmanager
def foreign_ray(cpus: int) -> Iterator[ForeignRay]:
    """A Ray of somebody else."""
    with with_token(), joined_machines(2) as network, ExitStack() as leave:
        yield ForeignRay(network, cpus, leave)


def raylet_of(node: RayNode) -> psutil.Process:
    below = psutil.Process(node._ray.pid).children(recursive=True)
    return next(process for process in below if process.name() == "raylet")
