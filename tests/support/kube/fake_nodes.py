"""Fake nodes and kubelets: real Node objects and Leases, and pods that move as a test's script says.

The real scheduler binds pods to these nodes, and the real controller manager judges them by their Leases; only what a
kubelet does is played here. One thread with one event loop serves all nodes. All methods may be called from any
thread, and return when what they did has reached the API server.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import defaultdict
from collections.abc import Coroutine
from typing import Any, Self, TypeVar

import aiohttp

from stageline_operator.api.constants import LABEL_NAME
from support.kube.api import tls_context
from support.kube.behaviour import READY, Behaviour, Pod, Script, always
from support.kube.control_plane import ControlPlane
from support.kube.fake_client import MERGE, STRATEGIC, FakeClient, Refused
from support.kube.fake_node import LEASES, FakeNode, NodeShape
from support.kube.fake_pod import FakePod
from support.kube.head_state import healthy_state
from support.kube.pod_addresses import PodAddresses
from support.kube.pod_status import is_ready
from support.kube.state_server import State, StateServer

T = TypeVar("T")

ANSWER_SECONDS = 60.0
RETRY_SECONDS = 0.2
HEARTBEATS_PER_GRACE = 6
BOUND_PODS = "/api/v1/pods?fieldSelector=spec.nodeName!%3D"


class FakeNodes:
    """The nodes of one control plane. Pods are Ready at once unless their namespace has a script."""

    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fake-kubelets", daemon=True)
        self._addresses = PodAddresses()
        self._nodes: dict[str, FakeNode] = {}
        self._pods: dict[str, FakePod] = {}
        self._neighbours: defaultdict[tuple[str, str], dict[str, FakePod]] = defaultdict(dict)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._scripts: dict[str, Script] = {}
        self._states: dict[str, State] = {}
        self._last_beat = self._loop.time()
        self._errors: list[BaseException] = []
        self._background: list[asyncio.Task[None]] = []

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        self._thread.start()
        self._do(self._start())

    def stop(self) -> None:
        """Ends all playing, leaving objects as they are; raises what went wrong meanwhile."""
        self._do(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._addresses.close()
        if self._errors:
            raise BaseExceptionGroup("fake kubelets failed", self._errors)

    # -- nodes ----------------------------------------------------------------------------------------------------

    def add_node(self, name: str, shape: NodeShape | None = None) -> None:
        self._do(self._add_node(name, shape or NodeShape()))

    def remove_node(self, name: str) -> None:
        """Deletes the Node object; the controller manager deletes its pods, 40 to 60 seconds later."""
        self._do(self._remove_node(name))

    def lose_node(self, name: str) -> None:
        """No heartbeat, no word about its pods and no answer from them any more: the node is unreachable."""
        self._do(self._lose_node(name))

    def recover_node(self, name: str) -> None:
        """The node can be reached again, its pods where they were."""
        self._do(self._recover_node(name))

    def seconds_silent(self) -> float:
        """Since the API server last heard of the nodes that are up."""
        return self._loop.time() - self._last_beat

    # -- pods -----------------------------------------------------------------------------------------------------

    def play(self, namespace: str, script: Script | Behaviour) -> None:
        """What runs of pods in ``namespace`` do, from their next start on."""
        self._scripts[namespace] = always(script) if isinstance(script, Behaviour) else script

    def end_containers(self, namespace: str, name: str, behaviour: Behaviour | None = None) -> None:
        """The pod's containers end now, with the exit code, reason and log of ``behaviour``."""
        self._do(self._end(namespace, name, behaviour or Behaviour()))

    def set_ready(self, namespace: str, name: str, is_ready: bool) -> None:
        """Moves a running pod's Ready condition."""
        self._do(self._set_ready(namespace, name, is_ready))

    def answer_state(self, namespace: str, state: State) -> None:
        """What heads of ``namespace`` answer to ``GET /state`` from now on, instead of head_state.healthy_state."""
        self._states[namespace] = state

    # -- in the loop: nodes -----------------------------------------------------------------------------------------

    async def _start(self) -> None:
        certificate = self._plane.certificate("fake-kubelet-transport", ["system:masters"])
        authority = str(self._plane.authority)
        self._client = FakeClient(
            self._plane.server, tls_context(authority, str(certificate.certificate), str(certificate.key))
        )
        self._state_server = StateServer(self._state_of)
        await self._state_server.start()
        self._background = [asyncio.create_task(self._watch()), asyncio.create_task(self._beat())]

    async def _stop(self) -> None:
        tasks = [*self._background, *self._tasks.values()]
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        self._errors += [each for each in results if isinstance(each, Exception) and each not in self._errors]
        await self._state_server.stop()
        await self._client.close()
        await self._loop.shutdown_asyncgens()

    async def _add_node(self, name: str, shape: NodeShape) -> None:
        node = FakeNode(name, shape, self._plane.settings.version)
        await self._client.request("POST", LEASES, node.lease())
        await self._client.request("POST", "/api/v1/nodes", node.node())
        self._nodes[name] = node

    async def _remove_node(self, name: str) -> None:
        await self._lose_node(name)
        del self._nodes[name]
        for path in (f"/api/v1/nodes/{name}", f"{LEASES}/{name}"):
            # The Node owns nothing here: the Lease goes by hand, unless the controller manager was faster.
            with contextlib.suppress(Refused):
                await self._client.request("DELETE", path)

    async def _lose_node(self, name: str) -> None:
        self._nodes[name].is_up.clear()
        for fake in self._pods_on(name):
            await self._open_or_close_state(fake)

    async def _recover_node(self, name: str) -> None:
        node = self._nodes[name]
        await self._client.request("PATCH", f"{LEASES}/{name}", node.renewal(), MERGE)
        await self._report_ready(node)
        node.is_up.set()
        for fake in self._pods_on(name):
            await self._open_or_close_state(fake)

    async def _beat(self) -> None:
        interval = self._plane.settings.node_grace_seconds / HEARTBEATS_PER_GRACE
        while True:
            nodes = [node for node in self._nodes.values() if node.is_up.is_set()]
            await asyncio.gather(*(self._renew(node) for node in nodes))
            await self._mend(nodes)
            self._last_beat = self._loop.time()
            await asyncio.sleep(interval)

    async def _renew(self, node: FakeNode) -> None:
        # Refused: a node that is just being removed.
        with contextlib.suppress(Refused):
            await self._client.request("PATCH", f"{LEASES}/{node.name}", node.renewal(), MERGE)

    async def _mend(self, nodes: list[FakeNode]) -> None:
        """Says of nodes that are up and were given up meanwhile (while no API server was there, say) that they are
        Ready: as a kubelet does, and as the controller manager would not do by itself."""
        answer = await self._client.request("GET", "/api/v1/nodes?resourceVersion=0")
        given_up = {node["metadata"]["name"] for node in answer["items"] if not is_ready(node)}
        for node in nodes:
            if node.name in given_up and node.is_up.is_set():
                with contextlib.suppress(Refused):
                    await self._report_ready(node)

    async def _report_ready(self, node: FakeNode) -> None:
        path = f"/api/v1/nodes/{node.name}/status"
        await self._client.request("PATCH", path, {"status": node.ready_status()}, STRATEGIC)

    # -- in the loop: pods ------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        while True:
            # A stream that breaks, or an API server that restarts, costs a new list.
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                await self._list_and_watch()
            await asyncio.sleep(RETRY_SECONDS)

    async def _list_and_watch(self) -> None:
        answer = await self._client.request("GET", BOUND_PODS)
        present = {pod["metadata"]["uid"] for pod in answer["items"]}
        for uid in set(self._pods) - present:
            await self._forget(uid)
        for pod in answer["items"]:
            self._observe(pod)
        async with contextlib.aclosing(self._client.watch(BOUND_PODS, answer["metadata"]["resourceVersion"])) as events:
            async for event in events:
                if event["type"] in ("ADDED", "MODIFIED"):
                    self._observe(event["object"])
                elif event["type"] == "DELETED":
                    await self._forget(event["object"]["metadata"]["uid"])
                elif event["type"] == "ERROR":
                    return

    def _observe(self, pod: Pod) -> None:
        uid, node = pod["metadata"]["uid"], self._nodes.get(pod["spec"].get("nodeName", ""))
        known = self._pods.get(uid)
        if known is not None:
            known.observe(pod)
            self._state_server.observe(known.pod_ip, pod)
        elif node is not None:
            address = self._addresses.next()
            fake = FakePod(pod, self._next_run, self._client, node.is_up, address, self._open_or_close_state)
            fake.observe(pod)
            self._pods[uid] = self._neighbours[_resource_of(pod)][uid] = fake
            self._tasks[uid] = asyncio.create_task(fake.live())
            self._tasks[uid].add_done_callback(self._note_error)

    async def _forget(self, uid: str) -> None:
        fake = self._pods.pop(uid, None)
        if fake is not None:
            del self._neighbours[_resource_of(fake.pod)][uid]
            self._tasks.pop(uid).cancel()
            await self._state_server.close(fake.pod_ip)

    def _next_run(self, pod: Pod, restarts: int) -> Behaviour:
        return self._scripts.get(pod["metadata"]["namespace"], always(READY))(pod, restarts)

    async def _open_or_close_state(self, fake: FakePod) -> None:
        node = self._nodes.get(fake.pod["spec"]["nodeName"])
        if fake.is_running and node is not None and node.is_up.is_set():
            await self._state_server.open(fake.pod_ip, fake.pod)
        else:
            await self._state_server.close(fake.pod_ip)

    def _state_of(self, pod: Pod) -> Any:
        namespace = pod["metadata"]["namespace"]
        if namespace in self._states:
            return self._states[namespace](pod)
        return healthy_state(pod, [fake.pod for fake in self._neighbours[_resource_of(pod)].values()])

    async def _end(self, namespace: str, name: str, behaviour: Behaviour) -> None:
        self._pod(namespace, name).end(behaviour)

    async def _set_ready(self, namespace: str, name: str, is_ready: bool) -> None:
        await self._pod(namespace, name).set_ready(is_ready)

    def _pod(self, namespace: str, name: str) -> FakePod:
        for fake in self._pods.values():
            if (fake.pod["metadata"]["namespace"], fake.pod["metadata"]["name"]) == (namespace, name):
                return fake
        raise KeyError(f"no fake node runs a pod {namespace}/{name}")

    def _pods_on(self, node: str) -> list[FakePod]:
        return [fake for fake in self._pods.values() if fake.pod["spec"]["nodeName"] == node]

    # -- between threads --------------------------------------------------------------------------------------------

    def _note_error(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._errors.append(error)

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(ANSWER_SECONDS)


def _resource_of(pod: Pod) -> tuple[str, str]:
    """Namespace and name of the resource that a pod belongs to: a head knows the pods of its own one."""
    metadata = pod["metadata"]
    return metadata["namespace"], (metadata.get("labels") or {}).get(LABEL_NAME, "")
