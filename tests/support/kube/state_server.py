"""``GET /state`` of fake pods: each but a stage answers on its own loopback address, at its port named ``status``."""

from __future__ import annotations

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
        self._sites: dict[str, web.TCPSite] = {}
        app = web.Application()
        app.router.add_get(PATH_STATE, self._respond)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0)

    async def start(self) -> None:
        await self._runner.setup()

    async def stop(self) -> None:
        await self._runner.cleanup()

    async def open(self, address: str, pod: Pod) -> None:
        """Begins to answer for ``pod`` at ``address``, if it has the port; harmless when it does already."""
        port = status_port(pod)
        if port is None or address in self._sites:
            return
        self._pods[address] = pod
        self._sites[address] = web.TCPSite(self._runner, address, port)
        await self._sites[address].start()

    async def close(self, address: str) -> None:
        """Refuses connections at ``address`` from now on."""
        self._pods.pop(address, None)
        site = self._sites.pop(address, None)
        if site is not None:
            await site.stop()

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
