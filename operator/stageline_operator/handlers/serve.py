"""Runs operator and watch together, and ends them in the right order: writers, Lease, watch."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import threading
from collections.abc import Collection
from functools import partial
from typing import Any

import kopf

from stageline_operator.api.errors import OperatorError
from stageline_operator.handlers.watch import quiet_logs, registry_of, settings
from stageline_operator.kube import config
from stageline_operator.kube.api_client import KubeClient
from stageline_operator.kube.config import Configuration
from stageline_operator.kube.kinds import RESOURCE
from stageline_operator.runtime.lease import CALL_SECONDS, Lease
from stageline_operator.runtime.metrics import Metrics
from stageline_operator.runtime.operator import Operator, wait_for_cluster
from stageline_operator.runtime.options import Options
from stageline_operator.runtime.web import serving

WRITERS_SECONDS = 3.0
"""Time for writes under way to end, when the process is asked to: another leads within 5 s, however that goes."""
WATCH_SECONDS = 3.0
"""Time for kopf to end its tasks."""
EXIT_SECONDS = 5.0
"""Time for everything else; then the process ends in any case."""

log = logging.getLogger(__name__)


async def serve(options: Options) -> None:
    """Run until SIGTERM or SIGINT.

    Raises:
        OperatorError: something makes it wrong to go on; the next start begins anew.
        OSError: the port is taken.
    """
    quiet_logs()
    stop = asyncio.Event()
    _on_signals(stop)
    configuration = await config.load(options.kubeconfig)
    metrics = Metrics()
    operators: list[Operator] = []
    async with contextlib.AsyncExitStack() as stack:
        lease_client = KubeClient(configuration, options.identity, seconds=CALL_SECONDS)
        stack.push_async_callback(lease_client.close)
        lease = Lease(lease_client, options.lease_namespace, options.lease_name, options.identity)
        kube = KubeClient(configuration, options.identity, may_write=lease.left, wrote=metrics.wrote)
        stack.push_async_callback(kube.close)
        port = await stack.enter_async_context(
            serving(options.host, options.port, metrics, lambda: any(each.is_ready for each in operators))
        )
        log.info("metrics and probes on port %d; the API server is %s", port, configuration.host)
        waiting = asyncio.create_task(wait_for_cluster(kube), name="discovery")
        await _until_one_ends(stop, {waiting})
        if not waiting.done():
            waiting.cancel()
            return
        operators.append(Operator(options, kube, lease, waiting.result(), metrics))
        await _run(operators[0], lease, options, configuration, stop)


async def _run(
    operator: Operator, lease: Lease, options: Options, configuration: Configuration, stop: asyncio.Event
) -> None:
    end_watch = asyncio.Event()
    watch = await kopf.spawn_tasks(
        registry=registry_of(partial(operator.saw, RESOURCE), lambda: config.login(configuration)),
        settings=settings(),
        clusterwide=not options.namespaces,
        namespaces=options.namespaces,
        stop_flag=end_watch,
    )
    _on_signals(stop)  # again, since kopf has put its own handlers there
    work = asyncio.create_task(operator.run(), name="operator")
    await _until_one_ends(stop, {work, *watch})
    await operator.drain(WRITERS_SECONDS)
    await lease.release()
    end_watch.set()
    work.cancel()
    ended = await asyncio.gather(work, _end_watch(watch), return_exceptions=True)
    errors = [error for error in ended if isinstance(error, Exception)]
    _end_soon(1 if errors else 0)
    if errors:
        raise errors[0]


def _end_soon(code: int) -> None:
    """When one of its watches has failed, kopf leaves the others running, and they may resist being cancelled."""
    timer = threading.Timer(EXIT_SECONDS, os._exit, [code])
    timer.daemon = True
    timer.start()


async def _end_watch(watch: Collection[asyncio.Task[None]]) -> None:
    """End kopf's tasks.

    Raises:
        OperatorError: one of them had failed.
    """
    try:
        # Of all other tasks it would first wait a long time for the end, then cancel them; the end of the loop does.
        await asyncio.wait_for(kopf.run_tasks(watch, ignored=asyncio.all_tasks()), WATCH_SECONDS)
    except TimeoutError:
        log.warning("kopf did not end within %g s", WATCH_SECONDS)
    except Exception as error:
        raise OperatorError(f"the watch failed: {error!r}") from error


def _on_signals(stop: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)


async def _until_one_ends(stop: asyncio.Event, tasks: Collection[asyncio.Task[Any]]) -> None:
    """Until one of ``tasks`` ends, or ``stop`` is set."""
    stopped = asyncio.create_task(stop.wait(), name="stop")
    await asyncio.wait({stopped, *tasks}, return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
