"""`stageline-operator run`: the operator itself."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import socket
import sys
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter, validators

from stageline_operator.handlers.serve import serve
from stageline_operator.kube.config import own_namespace
from stageline_operator.runtime.options import Options
from stageline_operator.runtime.poller import FAST_SECONDS, SLOW_SECONDS

Port = Annotated[int, Parameter(validator=validators.Number(gte=0, lte=65535))]
Seconds = Annotated[float, Parameter(validator=validators.Number(gte=0.2, lte=3600))]


def run_command(
    *,
    namespace: Annotated[tuple[str, ...], Parameter(negative=())] = (),
    kubeconfig: Path | None = None,
    lease_name: str = "stageline-operator",
    lease_namespace: str | None = None,
    identity: str | None = None,
    host: str = "0.0.0.0",
    port: Port = 8080,
    state_poll: Seconds = FAST_SECONDS,
    state_poll_idle: Seconds = SLOW_SECONDS,
    log_level: Literal["debug", "info", "warning", "error"] = "info",
) -> None:
    """Serve InferenceDeployments until SIGTERM. Two or more may run: one works, the others wait for its Lease.

    Parameters
    ----------
    namespace
        Namespace to serve; may be given several times. Without it: all namespaces, which needs a ClusterRole.
    kubeconfig
        File that says where the API server is. Without it: $KUBECONFIG, or the service account of the pod.
    lease_name
        Name of the Lease by which one process of several works.
    lease_namespace
        Namespace of the Lease. Default: the namespace of the pod; `default` outside of a pod.
    identity
        Name of this process in the Lease; no two processes may have the same. In a pod give the pod's uid. Default:
        made from host name and process id.
    host
        Address on which /metrics, /live and /ready are served.
    port
        Port on which they are served; 0 for one that the system picks, which the log names.
    state_poll
        Seconds between questions to a head (GET /state) while its resource progresses.
    state_poll_idle
        Seconds between questions to a head otherwise.
    log_level
        How much is logged to stderr.
    """
    logging.basicConfig(
        level=log_level.upper(), stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    options = Options(
        kubeconfig=kubeconfig,
        namespaces=tuple(dict.fromkeys(namespace)),
        lease_name=lease_name,
        lease_namespace=lease_namespace or own_namespace(),
        identity=identity or f"{socket.gethostname()}-{os.getpid()}",
        host=host,
        port=port,
        state_seconds=(state_poll, state_poll_idle),
    )
    # What is loaded now stays: a full collection looks at what is younger alone, which is ten times quicker.
    gc.collect()
    gc.freeze()
    asyncio.run(serve(options))
