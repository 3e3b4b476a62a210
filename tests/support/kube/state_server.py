"""``GET /state`` of fake pods: each but a stage answers on its own loopback address, at its port named ``status``."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from stageline_operator.api.constants import LABEL_ROLE, PATH_STATE, PORT_NAME_STATUS, ROLE_STAGE
from support.kube.behaviour import Pod

Body = dict[str, Any] | None
State = Callable[[Pod], Body | Awaitable[Body]]
"""From a pod to the body of its answer; None answers 503. May be asynchronous, to answer late."""


class StateServer:
    """Listens on one address per pod; lives in one event loop."""

    def __init__(self, answer: State) -> None:
        self._answer = answer
        self._pods: dict[str, Pod] = {}
        self._servers: dict[str, asyncio.Server] = {}
        app = web.Application()
        app.router.add_get(PATH_STATE, self._respond)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0)

    async def start(self) -> None:
        await self._runner.setup()

    async def stop(self) -> None:
        for address in list(self._servers):
            await self.close(address)
        await self._runner.cleanup()

    async def open(self, address: str, pod: Pod) -> None:
        """Begins to answer for ``pod`` at ``address``, if it has the port; harmless when it does already."""
        port = status_port(pod)
        if port is None or address in self._pods:
            return
        assert self._runner.server is not None
        self._pods[address] = pod
        server = await asyncio.get_running_loop().create_server(self._runner.server, address, port)
        if address in self._pods:
            self._servers[address] = server
        else:  # closed meanwhile
            server.close()

    async def close(self, address: str) -> None:
        """Refuses connections at ``address`` from now on."""
        self._pods.pop(address, None)
        server = self._servers.pop(address, None)
        if server is None:
            return
        for socket in server.sockets:
            asyncio.get_running_loop().remove_reader(socket)
        # A connection that was accepted in this moment still has to find its server, or it would be left open.
        await asyncio.sleep(0)
        server.close()

    def observe(self, address: str, pod: Pod) -> None:
        if address in self._pods:
            self._pods[address] = pod

    async def _respond(self, request: web.Request) -> web.Response:
        assert request.transport is not None
        address = request.transport.get_extra_info("sockname")[0]
        pod = self._pods.get(address)
        body = self._answer(pod) if pod is not None else None
        if inspect.isawaitable(body):
            body = await body
        if body is None:
            return web.json_response({"error": "no state"}, status=503)
        return web.json_response(body)


def status_port(pod: Pod) -> int | None:
    """The number of the port where a pod answers for its state; None where it does not."""
    if pod["metadata"].get("labels", {}).get(LABEL_ROLE) == ROLE_STAGE:
        return None
    for container in pod["spec"]["containers"]:
        for port in container.get("ports", []):
            if port.get("name") == PORT_NAME_STATUS:
                number: int = port["containerPort"]
                return number
    return None
