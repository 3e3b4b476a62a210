"""A node's containerd: its configuration, its start, and the end of what it runs."""

from __future__ import annotations

import json
import os
import signal
from contextlib import suppress
from pathlib import Path

from cluster import daemons, debian, pause
from cluster.commands import CommandError, run
from cluster.kernel import kill_containers
from cluster.layout import PAUSE_IMAGE, Node
from cluster.registry import mirror_everything
from support.kube.waiting import wait_until

START_SECONDS = 30.0
STOP_SECONDS = 30.0
_CONFIG = """\
version = 2
root = "{root}"
state = "{state}"
disabled_plugins = [
  "io.containerd.internal.v1.opt",
  "io.containerd.internal.v1.tracing",
  "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs",
  "io.containerd.tracing.processor.v1.otlp",
]
[grpc]
address = "{socket}"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{pause}"
disable_apparmor = true
# A root without CAP_SYS_RESOURCE may not lower it, and pods' first containers ask for -998.
restrict_oom_score_adj = true
netns_mounts_under_state_dir = true
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "overlayfs"
discard_unpacked_layers = true
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
BinaryName = "{debian}/usr/sbin/runc"
Root = "{state}/runc"
SystemdCgroup = false
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{plugins}"
conf_dir = "{networks}"
[plugins."io.containerd.grpc.v1.cri".registry]
config_path = "{registries}"
"""


def start(node: Node) -> None:
    """Starts the node's containerd; returns when pods can be run."""
    networks = node.folder / "networks"
    networks.mkdir(parents=True)
    (networks / "10-bridge.conflist").write_text(json.dumps(_pod_network(node), indent=1))
    node.images.mkdir(parents=True, exist_ok=True)
    config = node.folder / "containerd.toml"
    config.write_text(
        _CONFIG.format(
            root=node.images,
            state=node.folder / "containerd",
            socket=node.socket,
            pause=PAUSE_IMAGE,
            debian=debian.ROOT,
            plugins=debian.CNI_PLUGINS,
            networks=networks,
            registries=mirror_everything(node),
        )
    )
    name = daemon(node)
    command = node.inside(f"{debian.ROOT}/usr/bin/containerd", "--config", str(config))
    daemons.start(name, command, debian.environment())

    def answers() -> bool:
        daemons.check(name)
        with suppress(CommandError):
            ctr(node, "version")
            return True
        return False

    wait_until(answers, f"containerd of {node.name}", START_SECONDS)
    # Of a cluster that ended with the machine.
    _forget_containers(node)
    ctr(node, "images", "import", str(pause.ARCHIVE))


def stop(node: Node) -> None:
    """Ends the node's containers, then its containerd. Images stay in its store."""
    name = daemon(node)
    kill_containers(node)
    if daemons.is_running(name):
        _forget_containers(node)
    daemons.stop(name, signal.SIGTERM)
    for pid in _shims(node):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _forget_containers(node: Node) -> None:
    def all_deleted() -> bool:
        tasks = ctr(node, "tasks", "list", "--quiet").split()
        # Containerd deletes what has ended, too: one may be gone before the other asks.
        if tasks:
            with suppress(CommandError):
                ctr(node, "tasks", "delete", "--force", *tasks)
        return not tasks

    wait_until(all_deleted, f"the tasks of {node.name} to be gone", STOP_SECONDS)
    if containers := ctr(node, "containers", "list", "--quiet").split():
        ctr(node, "containers", "delete", *containers)


def daemon(node: Node) -> str:
    return f"{node.name}-containerd"


def ctr(node: Node, *arguments: str) -> str:
    """Standard output of containerd's own client, about what Kubernetes runs on the node."""
    client = f"{debian.ROOT}/usr/bin/ctr"
    return run(client, "--address", str(node.socket), "--namespace", "k8s.io", *arguments)


def _shims(node: Node) -> list[int]:
    """Processes that watch a container and were left by a containerd that was killed."""
    found = []
    for folder in Path("/proc").iterdir():
        with suppress(OSError):
            if folder.name.isdigit() and str(node.socket).encode() in (folder / "cmdline").read_bytes().split(b"\0"):
                found.append(int(folder.name))
    return found


def _pod_network(node: Node) -> dict[str, object]:
    return {
        "cniVersion": "1.0.0",
        "name": node.pod_network,
        "plugins": [
            {
                "type": "bridge",
                "bridge": "pods",
                "isGateway": True,
                "hairpinMode": True,
                "ipam": {
                    "type": "host-local",
                    "ranges": [[{"subnet": node.pods}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                    "dataDir": str(node.folder / "addresses"),
                },
            }
        ],
    }
