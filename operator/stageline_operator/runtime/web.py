"""The operator's own HTTP server: ``/live``, ``/ready`` and ``/metrics`` on one port."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import web
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from stageline_operator.api.constants import PATH_LIVE, PATH_METRICS, PATH_READY
from stageline_operator.runtime.metrics import Metrics


@asynccontextmanager
async def serving(host: str, port: int, metrics: Metrics, is_ready: Callable[[], bool]) -> AsyncIterator[int]:
    """Serve inside the block.

    ``/live`` answers while the event loop moves: everything else that could be wrong ends the process by itself.
    ``/ready`` is 200 when everything that is in the cluster has been seen, whether this process leads or waits.

    Args:
        port: 0 for one that the system picks.

    Yields:
        The port.

    Raises:
        OSError: the port is taken.
    """

    async def live(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def ready(_: web.Request) -> web.Response:
        if is_ready():
            return web.Response(text="ok\n")
        return web.Response(status=503, text="not everything that is in the cluster has been seen yet\n")

    async def scrape(_: web.Request) -> web.Response:
        body = generate_latest(metrics.registry)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})

    application = web.Application()
    application.add_routes([web.get(PATH_LIVE, live), web.get(PATH_READY, ready), web.get(PATH_METRICS, scrape)])
    runner = web.AppRunner(application, handle_signals=False, shutdown_timeout=1.0, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        await site.start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()
