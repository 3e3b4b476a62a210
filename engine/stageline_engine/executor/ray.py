"""Stages on machines that Ray finds, places and watches. Ray is on the way of no step, and decides nothing alone.

In a replica's own Ray every stage has a pod, whose `stageline node` joins this head by itself: Ray's word about it is
only logged, since our own is there before. In a Ray of others an actor starts `stageline node` on a machine with room.
"""

from __future__ import annotations

import logging
import math
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from zmq.utils import z85

from stageline_engine.comm.channel import HeadChannel
from stageline_engine.comm.commands import ReplicaKeys
from stageline_engine.comm.curve import new_keys
from stageline_engine.comm.key_file import KEY_FILE, read_keys
from stageline_engine.core.config import ControlConfig
from stageline_engine.core.deployment import RankSettings
from stageline_engine.core.errors import ConfigurationError, EngineFailedError, EngineStartError, StageFailedError
from stageline_engine.core.logs import JSON, current_format
from stageline_engine.executor.hosting import Trouble
from stageline_engine.executor.nodes import NodesExecutor
from stageline_engine.executor.remote_nodes import RemoteNodes
from stageline_engine.executor.roster import Roster
from stageline_engine.ray_cluster.messages import (
    CannotPlace,
    Ended,
    NodeOrder,
    Place,
    Placed,
    StageNeeds,
)
from stageline_engine.ray_cluster.processes import HEAD_START_SECONDS, RayHead
from stageline_engine.ray_cluster.stage_actors import RayLost, StageActors

_log = logging.getLogger(__name__)
_JOIN_SECONDS = 120.0
"""From the moment that all nodes have joined us until they have joined Ray, which starts for several seconds."""
_LOOK_SECONDS = 0.2
"""Between two looks at Ray: they cost a dozen system calls, and steps do not wait for them."""
_AGAIN_SECONDS = 30.0
"""From the end of one try to place actors to the next one."""


class RayExecutor(NodesExecutor):
    """See :class:`executor.base.Executor`.

    Raises:
        ConfigurationError: the key is missing or malformed.
    """

    def __init__(self, control: ControlConfig) -> None:
        keys = new_keys() if control.keys is None else read_keys(Path(control.keys))
        super().__init__(keys, control.address, control.control_port)
        self._control = control
        self._ray_keys = keys

    def make_nodes(
        self,
        channel: HeadChannel,
        settings: Sequence[RankSettings],
        progress: Callable[[str], None],
        roster: Roster,
    ) -> RemoteNodes:
        """See :class:`NodesExecutor`."""
        control = self._control
        ray: _Ray = (
            _OwnRay(control.address, len(settings))
            if control.ray_address is None
            else _OthersRay(control, control.ray_address, self._ray_keys, settings, progress)
        )
        return _RayNodes(channel, settings, progress, roster, ray)


class _Ray(Protocol):
    def poll(self, *, have_all_joined: bool) -> list[Trouble]: ...

    def close(self) -> None: ...


class _RayNodes(RemoteNodes):
    """Nodes that have Ray beside them."""

    def __init__(
        self,
        channel: HeadChannel,
        settings: Sequence[RankSettings],
        progress: Callable[[str], None],
        roster: Roster,
        ray: _Ray,
    ) -> None:
        super().__init__(channel, settings, progress, roster)
        self._ray = ray
        self._look_at = 0.0

    def poll(self) -> list[Trouble]:
        troubles = super().poll()
        if time.monotonic() >= self._look_at:
            self._look_at = time.monotonic() + _LOOK_SECONDS
            troubles += self._ray.poll(have_all_joined=self.have_all_joined)
        return troubles

    def close(self, failure: str) -> None:
        # Both at once: each may take its 2 s.
        ending = threading.Thread(target=self._ray.close, name="ray-end")
        ending.start()
        super().close(failure)
        ending.join()


class _OwnRay:
    """The replica's own Ray: its head runs here, and every stage's pod joins it."""

    def __init__(self, address: str, stages: int) -> None:
        self._address = address
        self._stages = stages
        self._actors: StageActors | None = None
        self._try_at = 0.0
        self._expected_at = 0.0
        """When its head should have come up; then that is told, once."""
        self._begin()

    def poll(self, *, have_all_joined: bool) -> list[Trouble]:
        is_time = time.monotonic() >= self._try_at
        if self._head.has_ended():
            if self._actors is not None:
                self._give_up("its head has ended")
            elif is_time:
                self._head.close()
                self._begin()
        elif not self._head.is_up():
            if time.monotonic() >= self._expected_at:
                self._expected_at = math.inf
                _log.warning("Ray's head is not up yet; the stages go on without it\n%s", self._head.log_tail())
        elif have_all_joined and is_time and self._actors is None:
            place = Place(
                address=self._head.address, namespace=_namespace(), stages=self._stages, patience=_JOIN_SECONDS
            )
            self._actors = StageActors(place)
        for event in [] if self._actors is None else self._actors.poll():
            if isinstance(event, Placed):
                _log.info("stage %d: its actor runs at %s", event.stage, event.home.address)
            elif isinstance(event, CannotPlace | RayLost):
                self._give_up(event.reason)
                break
            elif isinstance(event, Ended):
                _log.warning("stage %d: Ray lost its actor: %s", event.stage, event.reason)
        return []

    def _begin(self) -> None:
        self._head = RayHead(self._address)
        self._expected_at = time.monotonic() + HEAD_START_SECONDS

    def _give_up(self, reason: str) -> None:
        """Try again later, with other actors."""
        assert self._actors is not None
        _log.warning("Ray: %s; the stages go on without it", reason)
        # It may take its 2 s, and steps do not wait for Ray.
        threading.Thread(target=self._actors.close, name="ray-driver-end", daemon=True).start()
        self._actors = None
        self._try_at = time.monotonic() + _AGAIN_SECONDS

    def close(self) -> None:
        if self._actors is not None:
            self._actors.close()
        self._head.close()


class _OthersRay:
    """A Ray that was there before: actors start the nodes, and end them."""

    def __init__(
        self,
        control: ControlConfig,
        ray_address: str,
        keys: ReplicaKeys,
        settings: Sequence[RankSettings],
        progress: Callable[[str], None],
    ) -> None:
        self._address = ray_address
        self._progress = progress
        host = f"[{control.address}]" if ":" in control.address else control.address
        level = logging.getLevelName(logging.getLogger().getEffectiveLevel()).lower()
        self._actors = StageActors(
            Place(
                address=ray_address,
                namespace=_namespace(),
                stages=len(settings),
                needs=[StageNeeds(cpus=stage.spec.tp * max(1, stage.threads), gpus=_gpus(stage)) for stage in settings],
                orders=[
                    NodeOrder(
                        arguments=[
                            *("-m", "stageline_engine", "node", f"--head={host}:{control.control_port}"),
                            *(f"--stage={stage.spec.stage}", f"--tp={stage.spec.tp}", "--status-port=0"),
                            *(f"--log-level={level}", f"--log-format={JSON}"),
                        ],
                        log_level=level,
                        log_format=current_format(),
                        keys={KEY_FILE: z85.decode(keys.secret)},
                    )
                    for stage in settings
                ],
            )
        )

    def poll(self, *, have_all_joined: bool) -> list[Trouble]:
        troubles: list[Trouble] = []
        for event in self._actors.poll():
            if isinstance(event, Placed):
                self._progress(f"stage {event.stage}: Ray has room for it at {event.home.address}")
            elif isinstance(event, Ended):
                troubles.append(_failure(event))
            elif isinstance(event, CannotPlace) and event.is_input:
                troubles.append(ConfigurationError("--ray-address", self._address, event.reason))
            elif isinstance(event, CannotPlace):
                troubles.append(EngineStartError(event.reason, 1))
            elif isinstance(event, RayLost):
                troubles.append(EngineFailedError(f"Ray at {self._address}: {event.reason}"))
        return troubles

    def close(self) -> None:
        self._actors.close()


def _failure(ended: Ended) -> StageFailedError:
    if ended.node is None:
        return StageFailedError(ended.stage, 0, f"Ray lost its machine: {ended.reason}")
    return StageFailedError(ended.stage, 0, ended.reason, ended.node.exit_code, ended.node.log_tail)


def _gpus(settings: RankSettings) -> int:
    return settings.spec.tp if settings.device == "cuda" else 0


def _namespace() -> str:
    """Of one replica's actors: nobody looks them up by name, so it only has to be another one each time."""
    return f"stageline-{secrets.token_hex(4)}"
