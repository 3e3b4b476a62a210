"""The engine core's Ray driver: `python -m stageline_engine.ray_cluster.driver FD PARENT_PID`.

    engine core (StageActors)  ⇄  driver  ⇄  Ray  ⇄  actors (StageAgent)

A process of its own: Ray takes over the signals of its driver's process, and a driver whose head was killed was seen to
hang (Ray 2.60); the engine must go on. It ends with the engine core, and its actors with it.
"""

from __future__ import annotations

import os
import select
import socket
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any

import msgspec
import ray
from ray.exceptions import ActorUnavailableError, AuthenticationError, GetTimeoutError, RayError
from ray.util.placement_group import PlacementGroup, placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from stageline_engine.agent.death_signal import die_with_parent
from stageline_engine.ray_cluster.messages import (
    MAX_DATAGRAM,
    ActorHome,
    CannotPlace,
    DriverEvent,
    Ended,
    NodeEnded,
    Place,
    Placed,
)
from stageline_engine.ray_cluster.room import bundle, what_is_missing
from stageline_engine.ray_cluster.settings import stage_resource
from stageline_engine.ray_cluster.stage_agent import StageAgent

ROOM_SECONDS = 4.0
"""A Ray of others that has no room by then counts as busy."""
ACTOR_SECONDS = 60.0
"""From the place until the actor answers: a process that imports Ray, on a machine that may be busy with weights."""
_KNOCK_SECONDS = 3.0
_UNSURE_SECONDS = 1.0
"""Between two looks at an actor that Ray lost sight of without having given it up."""
_END_SECONDS = 1.5
_MAX_REASON = 1000


class _CannotPlaceError(Exception):
    def __init__(self, reason: str, *, is_input: bool = True) -> None:
        super().__init__(reason)
        self.is_input = is_input


class _Stopped(Exception):
    """The engine core closed its end."""


class _Actor:
    """One stage's actor, and the only door to it: nothing but bytes crosses Ray."""

    def __init__(self, order: bytes, options: Mapping[str, Any]) -> None:
        assert type(order) is bytes
        made = ray.remote(StageAgent).options(max_restarts=0, max_task_retries=0, max_concurrency=2, **options)
        self._actor = made.remote(order)

    def call(self, method: str, data: bytes = b"", timeout: float | None = None) -> bytes:
        """Blocks; raises what :func:`ray.get` raises."""
        assert type(data) is bytes
        answer = ray.get(getattr(self._actor, method).remote(data), timeout=timeout)
        assert type(answer) is bytes
        return answer


class _Driver:
    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self._actors: list[_Actor] = []
        self._has_own_nodes = False

    def run(self) -> None:
        try:
            place = msgspec.msgpack.decode(self._receive(), type=Place)
            _connect(place)
            self._place(place)
            # Nothing more is said to it: what comes is the end.
            self._receive()
        except _Stopped:
            pass
        except _CannotPlaceError as error:
            self._tell(CannotPlace(reason=str(error), is_input=error.is_input))
        finally:
            self._end_nodes()

    def _place(self, place: Place) -> None:
        if place.needs:
            self._has_own_nodes = True
            group = _find_room(place)
            for stage, (needs, order) in enumerate(zip(place.needs, place.orders, strict=True)):
                strategy = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=stage)
                options = {"num_cpus": needs.cpus, "num_gpus": needs.gpus, "scheduling_strategy": strategy}
                self._actors.append(_Actor(msgspec.msgpack.encode(order), options))
        else:
            self._wait_for_nodes(place)
            for stage in range(place.stages):
                self._actors.append(_Actor(b"", {"num_cpus": 0, "resources": {stage_resource(stage): 1}}))
        deadline = time.monotonic() + ACTOR_SECONDS
        for stage, actor in enumerate(self._actors):
            try:
                home = actor.call("home", timeout=max(deadline - time.monotonic(), 0.1))
            except GetTimeoutError:
                reason = f"the actor of stage {stage} did not start within {ACTOR_SECONDS:g} s"
                raise _CannotPlaceError(reason, is_input=False) from None
            except RayError as error:
                reason = f"the actor of stage {stage} did not start: {_reason(error)}"
                raise _CannotPlaceError(reason, is_input=False) from error
            self._tell(Placed(stage=stage, home=msgspec.msgpack.decode(home, type=ActorHome)))
            self._in_thread(self._watch, stage, actor)

    def _wait_for_nodes(self, place: Place) -> None:
        """Until each stage's own node has joined."""
        deadline = time.monotonic() + place.patience
        while True:
            nodes = _nodes()
            missing = [
                stage
                for stage in range(place.stages)
                if not any(stage_resource(stage) in resources for resources in nodes.values())
            ]
            if not missing:
                return
            left = deadline - time.monotonic()
            if left <= 0:
                numbers = ", ".join(map(str, missing))
                raise _CannotPlaceError(
                    f"no node has joined Ray for stage{'s' if len(missing) > 1 else ''} {numbers} of {place.stages}"
                    f" within {place.patience:g} s",
                    is_input=False,
                )
            if select.select([self._connection], [], [], min(left, 0.2))[0]:
                raise _Stopped

    def _watch(self, stage: int, actor: _Actor) -> None:
        while True:
            try:
                node = msgspec.msgpack.decode(actor.call("watch"), type=NodeEnded)
            except ActorUnavailableError:
                # Ray cannot reach it, and says more once it has given it up.
                time.sleep(_UNSURE_SECONDS)
            except RayError as error:
                self._tell(Ended(stage=stage, reason=_reason(error), node=None))
                return
            else:
                self._tell(Ended(stage=stage, reason="its node ended", node=node))
                return

    def _end_nodes(self) -> None:
        """Those that actors started; what is left of them ends with the actors."""
        if not self._has_own_nodes:
            return

        def end(actor: _Actor) -> None:
            try:
                actor.call("end", timeout=_END_SECONDS)
            except RayError:
                return  # gone already, or too slow: then its end is its node's

        threads = [self._in_thread(end, actor) for actor in self._actors]
        deadline = time.monotonic() + _END_SECONDS
        for thread in threads:
            thread.join(max(deadline - time.monotonic(), 0.0))

    def _in_thread(self, function: Any, *arguments: Any) -> threading.Thread:
        thread = threading.Thread(target=function, args=arguments, daemon=True)
        thread.start()
        return thread

    def _receive(self) -> bytes:
        try:
            data = self._connection.recv(MAX_DATAGRAM)
        except ConnectionResetError:
            data = b""
        if not data:
            raise _Stopped
        return data

    def _tell(self, event: DriverEvent) -> None:
        with self._lock:
            try:
                self._connection.send(msgspec.msgpack.encode(event))
            except OSError:
                return  # the engine core is ending; _receive sees it


def _connect(place: Place) -> None:
    host, _, port = place.address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=_KNOCK_SECONDS).close()
    except OSError as error:
        raise _CannotPlaceError(f"nobody listens there ({error}): start Ray first, or correct the address") from error
    # By default Ray tries for 20 s more, whatever the cause.
    os.environ.setdefault("RAY_gcs_server_port_wait_time_s", "3")
    try:
        ray.init(address=place.address, namespace=place.namespace, log_to_driver=False, logging_level="error")
    except (ConnectionError, AuthenticationError) as error:
        raise _CannotPlaceError(
            f"Ray does not let us in: the cluster's own token must be in RAY_AUTH_TOKEN, and a Ray node must run on"
            f" this machine ({_reason(error)})"
        ) from error
    except (ValueError, RuntimeError, RayError) as error:
        raise _CannotPlaceError(f"cannot join Ray: {_reason(error)}") from error


def _find_room(place: Place) -> PlacementGroup:
    """A bundle for each stage, so that its ranks share a machine; stages on as many machines as there are."""
    missing = what_is_missing(place.needs, _nodes())
    if missing is not None:
        raise _CannotPlaceError(missing)
    group = placement_group([bundle(needs) for needs in place.needs], strategy="SPREAD")
    if not group.wait(ROOM_SECONDS):
        free = ray.available_resources()
        gpus, cpus = (sum(getattr(needs, kind) for needs in place.needs) for kind in ("gpus", "cpus"))
        raise _CannotPlaceError(
            f"the Ray cluster is busy: the stages need {gpus} GPUs and {cpus} CPUs,"
            f" and {free.get('GPU', 0.0):g} GPUs and {free.get('CPU', 0.0):g} CPUs are free, not all on one machine"
        )
    return group


def _nodes() -> dict[str, dict[str, float]]:
    """What each living node of the cluster has, by address and the start of its id: several may share an address."""
    alive = [node for node in ray.nodes() if node["Alive"]]
    return {f"{node['NodeManagerAddress']} ({node['NodeID'][:6]})": node["Resources"] for node in alive}


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split())[:_MAX_REASON]


def main(descriptor: int, parent: int) -> None:
    """Serve one engine core until it closes its end."""
    die_with_parent(parent)
    with socket.socket(fileno=descriptor) as connection:
        _Driver(connection).run()
    # Not by way of Ray's own end, which may wait for a head that is gone: it sees the connection's end.
    os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
