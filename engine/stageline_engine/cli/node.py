"""`stageline node`: what a machine or a pod of one stage runs; it joins a head of `stageline serve`."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from stageline_engine.cli import flags
from stageline_engine.cli.console import Progress, begin_logging
from stageline_engine.comm.key_file import read_keys
from stageline_engine.core.errors import ConfigurationError
from stageline_engine.node.options import POD_ADDRESS, POD_NAME, NodeOptions, address_towards, check_address, parse_host
from stageline_engine.node.run import run_node

_RETRY_SECONDS = 2.0


def node_command(
    *,
    head: Annotated[str, Parameter(help="HOST:PORT of the head's --control-port.")],
    stage: Annotated[int, Parameter(help="Number of the pipeline stage that this machine runs, from 0.")],
    keys: Annotated[Path, Parameter(help="Folder with the file curve.key that head and stages share.")],
    tp: Annotated[int, Parameter(help="Tensor-parallel ranks of the stage, as the head's --tp says.")] = 1,
    status_port: Annotated[
        int, Parameter(help="Port for GET /live, /ready and /metrics; 0: the system chooses one.")
    ] = 8080,
    address: Annotated[
        str | None,
        Parameter(
            help=f"Own IP address, which the other stages can reach; default: {POD_ADDRESS} of the environment, else "
            "the one on the way to the head."
        ),
    ] = None,
    log_level: flags.LogLevel = "info",
    log_format: flags.LogFormat = "text",
) -> int:
    """Run one pipeline stage for a head on another machine."""
    begin_logging(log_level, log_format, "node", stage=stage)
    progress = Progress()
    host, port = parse_host("--head", head)
    if stage < 0:
        raise ConfigurationError("--stage", stage, "give a number from 0")
    if tp < 1:
        raise ConfigurationError("--tp", tp, "give a number of at least 1")
    if not 0 <= status_port <= 65535:
        raise ConfigurationError("--status-port", status_port, "give a number from 0 to 65535")
    options = NodeOptions(
        head_host=host,
        head_port=port,
        stage=stage,
        tp=tp,
        keys=read_keys(keys),
        address=_own_address(address or os.environ.get(POD_ADDRESS), host, port, progress),
        status_port=status_port,
        pod=os.environ.get(POD_NAME, ""),
    )
    return run_node(options, progress)


def _own_address(given: str | None, host: str, port: int, progress: Progress) -> str:
    if given:
        return check_address(given)
    while (found := address_towards(host, port)) is None:
        progress(f"waiting for the head: there is no way to {host} yet")
        time.sleep(_RETRY_SECONDS)
    return found
