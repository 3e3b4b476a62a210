"""Ray finds, places and watches: a real Ray on several machines (network namespaces) of this one."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil
import pytest

from stageline_engine.core.errors import ConfigurationError, EngineStartError
from stageline_engine.ray_cluster import settings
from stageline_engine.ray_cluster.messages import Answered, Ended, NodeEnded, NodeOrder, Place, StageNeeds
from stageline_engine.ray_cluster.node_socket import NodeDoor
from stageline_engine.ray_cluster.processes import RayHead, RayNode, Supervised, make_folder
from stageline_engine.ray_cluster.stage_actors import RayLost, StageActors
from support.machines import Machines, machines
from support.processes import descendants
from support.stranger import call_all, get

TOKEN = "0123456789abcdef0123456789abcdef"
PATIENCE = 240.0
"""Nothing here takes so long, unless it hangs."""
UNAUTHENTICATED, UNIMPLEMENTED, OK = 16, 12, 0


def wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def wait_for_event(actors: StageActors, kind: type) -> object:
    found: list[object] = []
    wait_for(
        lambda: bool(found.extend(event for event in actors.poll() if isinstance(event, kind)) or found),
        f"no {kind.__name__} came",
    )
    return found[0]


class StandInNode:
    """In the place of `stageline node`: answers in upper case, with its stage."""

    def __init__(self, stage: int, folder: Path) -> None:
        self.path = str(folder / f"node-{stage}")
        self._stage = stage
        self._door = NodeDoor(self.path)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while not self._ended.wait(0.01):
            for caller, data in self._door.poll():
                self._door.answer(caller, b"%d:%s" % (self._stage, data.upper()))

    def close(self) -> None:
        self._ended.set()
        self._thread.join()
        self._door.close()


class Cluster:
    """A replica's Ray: its head on machine 0, stage S on machine S + 1."""

    def __init__(self, place: Machines, folder: Path, stages: int, leave: ExitStack) -> None:
        self.machines = place
        self.folder = folder
        self.nodes: list[RayNode] = []
        address = place.addresses[0]
        self._leave = leave
        self.replace_head()
        for stage in range(stages):
            with place.on(stage + 1) as here:
                self.nodes.append(RayNode(address, stage, here, str(folder / f"node-{stage}")))
                leave.callback(self.nodes[-1].close)
            # One after the other: Ray's helpers have 15 s each to import.
            wait_for(self.nodes[-1].is_up, "a node did not join")

    def replace_head(self) -> None:
        with self.machines.on(0) as address:
            self.head = RayHead(address)
            self._leave.callback(self.head.close)
            self.address = self.head.address
        self.head.wait_until_up(PATIENCE)

    def actors(self, stages: int, patience: float = PATIENCE) -> StageActors:
        with self.machines.on(0):
            return StageActors(Place(address=self.address, namespace="test", stages=stages, patience=patience))


@pytest.fixture(scope="module", autouse=True)
def token() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", TOKEN)
        yield


@pytest.fixture(scope="module")
def cluster(token: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with machines(3) as place, ExitStack() as leave:
        yield Cluster(place, tmp_path_factory.mktemp("nodes"), 2, leave)


@pytest.fixture
def stand_ins(cluster: Cluster) -> Iterator[list[StandInNode]]:
    nodes = [StandInNode(stage, cluster.folder) for stage in range(2)]
    yield nodes
    for node in nodes:
        node.close()


def test_actors_land_on_the_machine_of_their_stage_and_reach_its_node(
    cluster: Cluster, stand_ins: list[StandInNode]
) -> None:
    actors = cluster.actors(stages=2)
    try:
        homes = actors.wait_until_placed()
        assert [home.address for home in homes] == cluster.machines.addresses[1:]
        actors.hand_over(1, b"order")
        assert wait_for_event(actors, Answered) == Answered(stage=1, data=b"1:ORDER")
        stand_ins[0].close()
        ended = wait_for_event(actors, Ended)
        assert ended == Ended(stage=0, reason="its node ended", node=NodeEnded(exit_code=None, log_tail=""))
    finally:
        actors.close()
    wait_for(lambda: not any(psutil.pid_exists(home.pid) for home in homes), "actors outlive their driver")


def test_a_stage_whose_node_has_not_joined_is_named(cluster: Cluster) -> None:
    actors = cluster.actors(stages=3, patience=1.0)
    try:
        with pytest.raises(EngineStartError, match="no node has joined Ray for stage 2 of 3 within 1 s"):
            actors.wait_until_placed()
    finally:
        actors.close()


def test_a_driver_without_the_token_is_told_so(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "f" * 32)
    actors = cluster.actors(stages=2)
    try:
        with pytest.raises(EngineStartError, match="does not let us in: the cluster's own token"):
            actors.wait_until_placed()
    finally:
        actors.close()


def test_strangers_are_refused_at_every_port(cluster: Cluster, stand_ins: list[StandInNode]) -> None:
    methods = ray_methods()
    known = set(range(settings.PORT_GCS, settings.WORKER_PORTS[1] + 1))
    actors = cluster.actors(stages=2)
    table: list[str] = []
    try:
        actors.wait_until_placed()
        for machine in range(3):
            with cluster.machines.on(machine) as address:
                for port, process in sorted(listening()):
                    assert port in known, f"{process} listens on port {port}, which no list of ours has"
                    web = {path: get(address, port, path) for path in ("/", "/api/jobs/", "/api/version", "/metrics")}
                    assert set(web.values()) <= {None, 401}, f"{process} at {port}: {web}"
                    answers = call_all(address, port, methods)
                    assert set(answers.values()) <= {None, UNAUTHENTICATED, UNIMPLEMENTED}, (process, port, answers)
                    assert web["/"] == 401 or UNAUTHENTICATED in answers.values(), f"nobody refused at {port}"
                    health = call_all(address, port, ["/grpc.health.v1.Health/Check"])
                    refused = sum(status == UNAUTHENTICATED for status in answers.values())
                    table.append(f"machine {machine} {port} {process}: web {web['/']} refused {refused} {health}")
        with cluster.machines.on(0) as address:
            # The same calls with the token are answered: what refuses is the token, not the caller's mistakes.
            path = "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo"
            assert call_all(address, settings.PORT_GCS, [path], TOKEN) == {path: OK}
    finally:
        actors.close()
    print(*table, sep="\n")


def test_a_killed_raylet_is_told_and_its_node_joins_again(cluster: Cluster, stand_ins: list[StandInNode]) -> None:
    actors = cluster.actors(stages=2)
    try:
        actors.wait_until_placed()
        raylet_of(cluster.nodes[1]).kill()
        ended = wait_for_event(actors, Ended)
        assert isinstance(ended, Ended) and ended.stage == 1 and ended.node is None
        assert "its node has died" in ended.reason
    finally:
        actors.close()
    again = cluster.actors(stages=2)
    try:
        assert [home.address for home in again.wait_until_placed()] == cluster.machines.addresses[1:]
    finally:
        again.close()


def test_a_driver_that_dies_is_told(cluster: Cluster, stand_ins: list[StandInNode]) -> None:
    actors = cluster.actors(stages=2)
    try:
        actors.wait_until_placed()
        drivers = [
            child for child in psutil.Process().children() if "stageline_engine.ray_cluster.driver" in child.cmdline()
        ]
        assert len(drivers) == 1
        drivers[0].kill()
        lost = wait_for_event(actors, RayLost)
        assert isinstance(lost, RayLost) and "exit code -9" in lost.reason
    finally:
        actors.close()


def test_nodes_join_a_head_that_comes_back(cluster: Cluster, stand_ins: list[StandInNode]) -> None:
    for process in psutil.Process(cluster.head._ray.pid).children():
        process.kill()
    wait_for(cluster.head.has_ended, "a part of the head was killed, and the rest lives on")
    cluster.replace_head()
    actors = cluster.actors(stages=2)
    try:
        assert [home.address for home in actors.wait_until_placed()] == cluster.machines.addresses[1:]
    finally:
        actors.close()


NODE_SCRIPT = """
import pathlib, sys, time
stage, keys = sys.argv[1], sys.argv[2].removeprefix("--keys=")
print("stage", stage, "reads", pathlib.Path(keys, "curve.key").read_text(), flush=True)
while not pathlib.Path(sys.argv[0]).with_name("end-" + stage).exists():
    time.sleep(0.02)
sys.exit(7)
"""


class ForeignRay:
    """A Ray of somebody else: two machines with two CPUs each, which know nothing of stages."""

    def __init__(self, place: Machines, leave: ExitStack) -> None:
        self.machines = place
        variables = settings.environment(os.environ)
        self.address = f"{place.addresses[0]}:{settings.PORT_GCS}"
        joining = f"--wait-for={self.address}"
        for machine in range(2):
            with place.on(machine) as address:
                folder = make_folder()
                command = [
                    *(
                        settings.head_command(address, folder)
                        if machine == 0
                        else settings.stage_command(place.addresses[0], 99, address, folder)
                    ),
                    "--num-cpus=2",
                ]
                ray = Supervised(command, variables, folder, ["--again", *([joining] if machine else [])])
                leave.callback(ray.close)
                wait_for((folder / settings.ADDRESS_FILE).exists, "Ray did not start")

    def actors(self, needs: StageNeeds, orders: list[NodeOrder]) -> StageActors:
        place = Place(
            address=self.address, namespace="test", stages=len(orders), needs=[needs] * len(orders), orders=orders
        )
        with self.machines.on(0):
            return StageActors(place)


@pytest.fixture(scope="module")
def foreign(token: None) -> Iterator[ForeignRay]:
    with machines(2) as place, ExitStack() as leave:
        yield ForeignRay(place, leave)


def test_stages_in_a_foreign_ray_go_to_different_machines_and_end_with_their_driver(
    foreign: ForeignRay, tmp_path: Path
) -> None:
    script = tmp_path / "node.py"
    script.write_text(NODE_SCRIPT)
    orders = [NodeOrder(arguments=[str(script), str(stage)], keys={"curve.key": b"secret"}) for stage in range(2)]
    actors = foreign.actors(StageNeeds(cpus=1, gpus=0), orders)
    try:
        homes = actors.wait_until_placed()
        assert sorted(home.address for home in homes) == foreign.machines.addresses
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
            r"--ray-address='10.213.7.1:6379': stage 0 needs 1 GPU and 1 CPU on one machine, and the 2 machines",
        ),
        (StageNeeds(cpus=2, gpus=0), r"stage 2 needs 0 GPUs and 2 CPUs on one machine, and with 2 other stages"),
    ]:
        actors = foreign.actors(needs, [NodeOrder(arguments=[], keys={})] * 3)
        try:
            with pytest.raises(ConfigurationError, match=missing):
                actors.wait_until_placed()
        finally:
            actors.close()


def test_closing_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A short path: Ray's sockets lie in it.
    monkeypatch.setenv("TMPDIR", str(temporary := make_folder()))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setenv("HOME", str(tmp_path))
    ray_folder = Path("/tmp/ray")
    before, had_folder = descendants(), ray_folder.exists()
    with machines(1) as place, place.on(0) as address:
        head = RayHead(address)
        try:
            head.wait_until_up(PATIENCE)
            assert list(temporary.iterdir())
        finally:
            head.close()
    assert descendants() <= before
    assert not list(temporary.iterdir())
    assert not list(tmp_path.iterdir())
    assert ray_folder.exists() == had_folder
    temporary.rmdir()


def test_ray_ends_with_an_owner_that_is_killed(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    code = (
        "import os, pathlib, sys, time\n"
        "from stageline_engine.ray_cluster.processes import Supervised\n"
        "child = 'import os, subprocess, sys, time; print(os.getpid()); "
        'print(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]).pid, flush=True); '
        "time.sleep(600)'\n"
        "process = Supervised([sys.executable, '-c', child], os.environ, pathlib.Path(sys.argv[1]))\n"
        "while process.log_tail().count('\\n') < 1:\n"
        "    process.poll(); time.sleep(0.01)\n"
        "print(process.pid, *process.log_tail().split(), flush=True)\n"
        "time.sleep(600)\n"
    )
    with psutil.Popen([sys.executable, "-c", code, str(folder)], stdout=-1, text=True) as owner:
        pids = [int(pid) for pid in owner.stdout.readline().split()]
        assert len(pids) == 3 and all(map(psutil.pid_exists, pids))
        owner.send_signal(signal.SIGKILL)
    wait_for(lambda: not any(map(psutil.pid_exists, pids)), "the supervisor, its command or its child live on")
    assert not folder.exists()


def test_ray_is_refused_without_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    with pytest.raises(ConfigurationError, match="RAY_AUTH_TOKEN"):
        RayHead("127.0.0.1")
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with pytest.raises(ConfigurationError, match="RAY_AUTH_MODE='disabled'"):
        RayHead("127.0.0.1")


def ray_methods() -> list[str]:
    """Every method of every service that Ray's own programs have, by what is written in them."""
    spec = importlib.util.find_spec("ray")
    assert spec is not None and spec.origin is not None
    ray = Path(spec.origin).parent
    programs = [ray / "core/src/ray/gcs/gcs_server", ray / "core/src/ray/raylet/raylet", ray / "_raylet.so"]
    methods = {found for program in programs for found in re.findall(rb"/ray\.rpc\.[\w.]+/\w+", program.read_bytes())}
    assert len(methods) > 100
    return sorted(method.decode() for method in methods)


def listening() -> set[tuple[int, str]]:
    """TCP ports on this thread's machine, and who listens."""
    return {
        (connection.laddr.port, psutil.Process(connection.pid).name())
        for connection in psutil.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }


def raylet_of(node: RayNode) -> psutil.Process:
    below = psutil.Process(node._ray.pid).children(recursive=True)
    return next(process for process in below if process.name() == "raylet")


def running(script: Path) -> list[psutil.Process]:
    """Processes of ours that run it."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if str(script) in process.cmdline()[1:2]:
                found.append(process)
    return found
