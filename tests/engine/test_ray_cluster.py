"""Ray beside a replica: actors on the machines of their stages, and no way in for strangers."""

from __future__ import annotations

import importlib.util
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from stageline_engine.core.errors import ConfigurationError
from stageline_engine.ray_cluster import settings
from stageline_engine.ray_cluster.messages import CannotPlace, Ended, NodeEnded
from stageline_engine.ray_cluster.processes import RayHead, make_folder
from stageline_engine.ray_cluster.stage_actors import RayLost
from support.namespaces import joined_machines
from support.processes import descendants
from support.ray_machines import (
    TOKEN,
    Cluster,
    StandInNode,
    own_ray,
    placed,
    stand_ins_of,
    wait_for,
    wait_for_event,
    with_token,
)
from support.stranger import call_all, get

UNAUTHENTICATED, UNIMPLEMENTED, OK = 16, 12, 0


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with own_ray(tmp_path_factory.mktemp("nodes")) as made:
        yield made


@pytest.fixture
def stand_ins(cluster: Cluster) -> Iterator[list[StandInNode]]:
    with stand_ins_of(cluster) as made:
        yield made


def test_actors_land_on_the_machine_of_their_stage_and_see_its_node(
    cluster: Cluster, stand_ins: list[StandInNode]
) -> None:
    actors = cluster.actors(stages=2)
    try:
        homes = placed(actors)
        assert [home.address for home in homes] == cluster.network.addresses[1:]
        for stage in (1, 0):
            stand_ins[stage].close()
            ended = wait_for_event(actors, Ended)
            assert ended == Ended(stage=stage, reason="its node ended", node=NodeEnded(exit_code=None, log_tail=""))
    finally:
        actors.close()
    wait_for(lambda: not any(psutil.pid_exists(home.pid) for home in homes), "actors outlive their driver")


def test_a_stage_whose_node_has_not_joined_is_named(cluster: Cluster) -> None:
    actors = cluster.actors(stages=3, patience=1.0)
    try:
        reason = "no node has joined Ray for stage 2 of 3 within 1 s"
        assert wait_for_event(actors, CannotPlace) == CannotPlace(reason=reason, is_input=False)
    finally:
        actors.close()


def test_a_driver_without_the_token_is_told_so(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "f" * 32)
    actors = cluster.actors(stages=2)
    try:
        refused = wait_for_event(actors, CannotPlace)
        assert isinstance(refused, CannotPlace)
        assert "does not let us in: the cluster's own token" in refused.reason
    finally:
        actors.close()


def test_strangers_are_refused_at_every_port(cluster: Cluster, stand_ins: list[StandInNode]) -> None:
    methods = ray_methods()
    known = set(range(settings.PORT_GCS, settings.WORKER_PORTS[1] + 1))
    actors = cluster.actors(stages=2)
    table: list[str] = []
    try:
        placed(actors)
        for machine in range(3):
            with cluster.network.machines[machine].entered() as address:
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
        with cluster.network.machines[0].entered() as address:
            # The same calls with the token are answered: what refuses is the token, not the caller's mistakes.
            path = "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo"
            assert call_all(address, settings.PORT_GCS, [path], TOKEN) == {path: OK}
    finally:
        actors.close()
    print(*table, sep="\n")


def test_a_driver_that_dies_is_told(cluster: Cluster, stand_ins: list[StandInNode]) -> None:
    actors = cluster.actors(stages=2)
    try:
        placed(actors)
        drivers = [
            child for child in psutil.Process().children() if "stageline_engine.ray_cluster.driver" in child.cmdline()
        ]
        assert len(drivers) == 1
        drivers[0].kill()
        lost = wait_for_event(actors, RayLost)
        assert isinstance(lost, RayLost) and "exit code -9" in lost.reason
    finally:
        actors.close()


def test_closing_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A short path: Ray's sockets lie in it.
    monkeypatch.setenv("TMPDIR", str(temporary := make_folder()))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setenv("HOME", str(tmp_path))
    ray_folder = Path("/tmp/ray")
    before, had_folder = descendants(), ray_folder.exists()
    with with_token(), joined_machines(1) as network, network.machines[0].entered() as address:
        head = RayHead(address)
        try:
            wait_for(head.is_up, "the head did not start")
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
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
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
        if connection.laddr and connection.status == psutil.CONN_LISTEN
    }
