"""How Ray runs inside a replica of ours: its ports, its settings, its command lines. Each number is written here once.

A Ray that a person has of their own (``--ray-address``) keeps its own settings; nothing of this reaches it.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from stageline_engine.core.errors import ConfigurationError

# The same in every pod, since each has its own address. All bind that address but where docs/security.md says else.
PORT_GCS: Final = 6379
"""Head: Ray's table of nodes and actors; what nodes join."""
PORT_NODE_MANAGER: Final = 6380
"""Every node: the raylet."""
PORT_OBJECT_MANAGER: Final = 6381
"""Every node: transfer of objects between nodes; our bytes are small and go inline."""
PORT_RUNTIME_ENV_AGENT: Final = 6382
"""Every node: makes environments for workers; ours need none."""
PORT_AGENT_GRPC: Final = 6383
"""Every node: nobody listens, unless ``ray[default]`` is installed."""
PORT_AGENT_HTTP: Final = 6384
"""Every node: nobody listens, unless ``ray[default]`` is installed."""
PORT_METRICS: Final = 6385
"""Every node: nobody listens, unless ``ray[default]`` is installed."""
PORT_DASHBOARD: Final = 6386
"""Head, loopback only: nobody listens, unless ``ray[default]`` is installed."""
PORT_CLIENT: Final = 6387
"""Head: nobody listens, unless grpcio is installed; Ray then has no switch for it."""
WORKER_PORTS: Final = (6390, 6409)
"""First and last port of actors and drivers: a stage's node has one actor, the head's has the driver."""

OBJECT_STORE_BYTES: Final = 80 * 1024 * 1024
"""In shared memory. Ray refuses less than 75 MiB; we put nothing into it."""
MAX_TEMP_PATH: Final = 40
"""Bytes of a temporary folder's path: Ray adds 64 for its sockets, whose paths end at 107 bytes."""

TOKEN_VARIABLE: Final = "RAY_AUTH_TOKEN"
MODE_VARIABLE: Final = "RAY_AUTH_MODE"
"""Environment variables by which Ray's processes know each other."""
NODE_SOCKET_VARIABLE: Final = "STAGELINE_NODE_SOCKET"
"""Environment variable by which a stage's actor finds the process that owns the stage's ranks."""
ADDRESS_FILE: Final = "ray_current_cluster"
"""Ray writes it into its temporary folder when a node is up."""

HEALTH_SECONDS: Final = 15
"""A node is declared dead no earlier than after so long a silence: our own watch has decided long before."""
_HEALTH_PERIOD_SECONDS: Final = 3
LOST_HEAD_SECONDS: Final = 10
"""A node gives up a head that it cannot reach, and joins anew."""

SETTINGS: Final = {
    "RAY_health_check_initial_delay_ms": "5000",
    "RAY_health_check_period_ms": str(_HEALTH_PERIOD_SECONDS * 1000),
    "RAY_health_check_timeout_ms": str(_HEALTH_PERIOD_SECONDS * 1000),
    # One more than the silence is long: the first failure may follow at once upon a success.
    "RAY_health_check_failure_threshold": str(HEALTH_SECONDS // _HEALTH_PERIOD_SECONDS + 1),
    "RAY_gcs_rpc_server_reconnect_timeout_s": str(LOST_HEAD_SECONDS),
    # Ray would kill the actor of a machine that is nearly full, which one full of weights always is.
    "RAY_memory_monitor_refresh_ms": "0",
    # A node has nothing to finish: its stage drains by our own word. Ray would wait for 30 s.
    "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
    # Ray's helpers import for seconds on a machine that is busy with weights; Ray's own 10 s end the node then.
    "RAY_agent_register_timeout_ms": "60000",
    "RAY_raylet_start_wait_time_s": "60",
    "RAY_enable_metrics_collection": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}


def environment(inherited: Mapping[str, str]) -> dict[str, str]:
    """What Ray's processes of a replica see.

    Raises:
        ConfigurationError: there is no token, or token authentication is switched off.
    """
    if not inherited.get(TOKEN_VARIABLE):
        raise ConfigurationError(
            TOKEN_VARIABLE, "", "set it to the replica's secret: without it anybody could run code"
        )
    mode = inherited.get(MODE_VARIABLE, "token")
    if mode != "token":
        raise ConfigurationError(MODE_VARIABLE, mode, "set it to token: nothing else keeps strangers out")
    return {**inherited, **SETTINGS, MODE_VARIABLE: mode}


def head_command(address: str, folder: Path) -> list[str]:
    """Starts Ray's head on this machine's ``address``; it hosts nothing."""
    return [
        *_start(address, folder),
        *([f"--ray-client-server-port={PORT_CLIENT}"] if find_spec("grpc") else []),
        "--head",
        f"--port={PORT_GCS}",
        "--include-dashboard=false",
        f"--dashboard-port={PORT_DASHBOARD}",
        "--no-monitor",
    ]


def stage_command(head: str, stage: int, address: str, folder: Path) -> list[str]:
    """Joins the Ray of host ``head``, as the node of one stage."""
    return [
        *_start(address, folder),
        f"--address={head}:{PORT_GCS}",
        f'--resources={{"{stage_resource(stage)}": 1}}',
    ]


def stage_resource(stage: int) -> str:
    """Ray's name for being the machine of a stage."""
    return f"stage_{stage}"


def _start(address: str, folder: Path) -> list[str]:
    first, last = WORKER_PORTS
    return [
        sys.executable,
        "-m",
        "ray.scripts.scripts",
        "start",
        "--block",
        "--disable-usage-stats",
        f"--node-ip-address={address}",
        f"--temp-dir={folder}",
        "--num-cpus=0",
        "--num-gpus=0",
        f"--object-store-memory={OBJECT_STORE_BYTES}",
        f"--node-manager-port={PORT_NODE_MANAGER}",
        f"--object-manager-port={PORT_OBJECT_MANAGER}",
        f"--runtime-env-agent-port={PORT_RUNTIME_ENV_AGENT}",
        f"--dashboard-agent-grpc-port={PORT_AGENT_GRPC}",
        f"--dashboard-agent-listen-port={PORT_AGENT_HTTP}",
        f"--metrics-export-port={PORT_METRICS}",
        f"--min-worker-port={first}",
        f"--max-worker-port={last}",
        "--include-log-monitor=false",
    ]
