"""One pod on a fake node: its containers' runs, one after the other, until the pod is deleted."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

from support.kube.behaviour import READY, Behaviour, Pod, Script
from support.kube.fake_client import STRATEGIC, FakeClient, Refused
from support.kube.pod_status import Containers, is_ready, status_patch

RESTART_SECONDS = 1.0
"""From the end of a run to the next, where the script asks for no more. A real kubelet waits 10 s, then doubles."""

KILLED = 137
"""Exit code of a process that SIGKILL ended."""

NOT_FOUND, CONFLICT = 404, 409


class _Interrupted(Exception):
    """What was waited for will not come."""


class _Deleted(_Interrupted):
    """The pod has a deletionTimestamp."""


class _Ended(_Interrupted):
    """The test ended the containers."""

    def __init__(self, behaviour: Behaviour) -> None:
        super().__init__()
        self.behaviour = behaviour


class _Gone(Exception):
    """The API server has no such pod any more."""


class FakePod:
    """Lives in the event loop of its FakeNodes; ``live`` is its task."""

    def __init__(
        self,
        pod: Pod,
        script: Script,
        client: FakeClient,
        node_is_up: asyncio.Event,
        pod_ip: str,
        on_running: Callable[[FakePod], Awaitable[None]],
    ) -> None:
        self.pod = pod
        self.pod_ip = pod_ip
        self._containers = Containers()
        self._script = script
        self._client = client
        self._node_is_up = node_is_up
        self._on_running = on_running
        self._interruptions: asyncio.Queue[_Interrupted] = asyncio.Queue()
        self._is_deleted = False
        self._behaviour = READY
        self._published_version = 0
        self._mending: asyncio.Task[None] | None = None

    @property
    def is_running(self) -> bool:
        """Whether its containers run; ``on_running`` is told of each change."""
        return self._containers.started_at is not None

    # -- what happens to it ---------------------------------------------------------------------------------------

    def observe(self, pod: Pod) -> None:
        """The API server has a newer version of the pod."""
        self.pod = pod
        if "deletionTimestamp" in pod["metadata"] and not self._is_deleted:
            self._is_deleted = True
            self._interruptions.put_nowait(_Deleted())
        is_later = 0 < self._published_version < int(pod["metadata"]["resourceVersion"])
        if is_later and self._containers.is_ready and not is_ready(pod) and self._node_is_up.is_set():
            # The controller manager took the node for lost and its pods for not ready; a kubelet corrects that.
            self._mending = asyncio.create_task(self._mend())

    async def _mend(self) -> None:
        with contextlib.suppress(_Gone):
            await self._publish()

    def end(self, behaviour: Behaviour) -> None:
        """Its containers end now, as ``behaviour`` says."""
        self._interruptions.put_nowait(_Ended(behaviour))

    async def set_ready(self, is_ready: bool) -> None:
        self._containers.is_ready = is_ready
        await self._publish()

    # -- its life -------------------------------------------------------------------------------------------------

    async def live(self) -> None:
        try:
            try:
                while not self._containers.is_over:
                    self._behaviour = self._script(self.pod, self._containers.restarts)
                    await self._run_once()
                while True:
                    await self._until(None)
            except _Deleted:
                await self._stop()
        except _Gone:
            return

    async def _run_once(self) -> None:
        behaviour = self._behaviour
        try:
            await self._start()
            if behaviour.ready_after is not None and not _is_before(behaviour.ends_after, behaviour.ready_after):
                await self._until(behaviour.ready_after)
                if not self._containers.is_ready:
                    await self.set_ready(True)
            await self._until(behaviour.ends_after)
        except _Ended as ended:
            self._behaviour = behaviour = ended.behaviour
        await self._end(behaviour)

    async def _start(self) -> None:
        behaviour, containers = self._behaviour, self._containers
        delay = behaviour.starts_after
        if containers.restarts and delay is not None:
            delay = max(delay, RESTART_SECONDS)
        if delay != 0:
            containers.wait(
                "CrashLoopBackOff" if containers.restarts else behaviour.waiting_reason, behaviour.waiting_message
            )
            await self._publish()
        await self._until(delay)
        await self._node_is_up.wait()
        containers.start()
        containers.is_ready = behaviour.ready_after == 0
        containers.pod_ip = self.pod_ip
        await self._on_running(self)
        await self._publish()

    async def _end(self, behaviour: Behaviour) -> None:
        containers = self._containers
        policy = self.pod["spec"].get("restartPolicy", "Always")
        containers.end(behaviour, behaviour.exit_code)
        await self._on_running(self)
        if policy == "Always" or (policy == "OnFailure" and behaviour.exit_code != 0):
            containers.restarts += 1
            containers.wait("CrashLoopBackOff", "")
        else:
            containers.phase = "Succeeded" if behaviour.exit_code == 0 else "Failed"
        await self._publish()

    async def _stop(self) -> None:
        """Terminating: the containers get their grace, then the pod object goes."""
        containers, behaviour = self._containers, self._behaviour
        if containers.started_at is not None:
            grace = float(self.pod["metadata"].get("deletionGracePeriodSeconds") or 0)
            exit_code = behaviour.stop_exit_code if behaviour.stops_after <= grace else KILLED
            try:
                await self._until(min(behaviour.stops_after, grace))
            except _Ended as ended:
                behaviour, exit_code = ended.behaviour, ended.behaviour.exit_code
            containers.end(behaviour, exit_code)
            await self._on_running(self)
            containers.phase = "Succeeded" if exit_code == 0 else "Failed"
            await self._publish()
        await self._node_is_up.wait()
        options = {"gracePeriodSeconds": 0, "preconditions": {"uid": self.pod["metadata"]["uid"]}}
        await self._ask("DELETE", self._path, {"apiVersion": "v1", "kind": "DeleteOptions", **options})

    # -- below ----------------------------------------------------------------------------------------------------

    async def _until(self, seconds: float | None) -> None:
        """Waits so long (None: for ever); an interruption is raised instead."""
        if seconds == 0 and self._interruptions.empty():
            return
        try:
            async with asyncio.timeout(seconds):
                interruption = await self._interruptions.get()
        except TimeoutError:
            return
        raise interruption

    async def _publish(self) -> None:
        await self._node_is_up.wait()
        patch = status_patch(self.pod, self._containers, host_ip="127.0.0.1")
        answer = await self._ask("PATCH", f"{self._path}/status", patch, STRATEGIC)
        self._published_version = int(answer["metadata"]["resourceVersion"])

    @property
    def _path(self) -> str:
        meta = self.pod["metadata"]
        return f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}"

    async def _ask(self, method: str, path: str, body: dict[str, Any], content_type: str = "application/json") -> Pod:
        try:
            return await self._client.request(method, path, body, content_type)
        except Refused as refused:
            if refused.status in (NOT_FOUND, CONFLICT):
                raise _Gone from refused
            raise


def _is_before(first: float | None, second: float) -> bool:
    return first is not None and first < second
