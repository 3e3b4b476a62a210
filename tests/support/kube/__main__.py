"""By hand, from the folder ``tests``:

python -m support.kube parts            obtain what a control plane is made of (slow once per machine)
python -m support.kube up --nodes 3     a control plane with fake nodes, until Ctrl-C
"""

from __future__ import annotations

import argparse
import signal
import threading

from support.kube.control_plane import ControlPlane
from support.kube.fake_node import NodeShape
from support.kube.fake_nodes import FakeNodes
from support.kube.flags import Settings
from support.kube.parts import VERSION, obtain, obtain_prometheus
from support.kube.progress import say


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m support.kube")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (("parts", "obtain every part"), ("up", "run a control plane until Ctrl-C")):
        command = commands.add_parser(name, help=text)
        command.add_argument("--version", default=VERSION, help="Kubernetes version (default: %(default)s)")
        if name == "up":
            command.add_argument("--nodes", type=int, default=3, help="fake nodes (default: %(default)s)")
            command.add_argument("--gpus", type=int, default=8, help="GPUs of each node (default: %(default)s)")
    arguments = parser.parse_args()
    if arguments.command == "parts":
        parts = obtain(arguments.version)
        obtain_prometheus()
        print(*(f"{name}: {path}" for name, path in vars(parts).items()), sep="\n")
    else:
        run(Settings(version=arguments.version), arguments.nodes, arguments.gpus)


def run(settings: Settings, num_nodes: int, gpus: int) -> None:
    """Serves until SIGINT or SIGTERM."""
    with ControlPlane(settings) as plane, FakeNodes(plane) as nodes:
        for index in range(num_nodes):
            nodes.add_node(f"node-{index}", NodeShape(gpus=gpus))
        say("ready; Ctrl-C ends it and removes everything. For kubectl and helm:")
        print(f"export KUBECONFIG={plane.kubeconfig} PATH={plane.kubectl.parent}:$PATH", flush=True)
        end = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: end.set())
        end.wait()


if __name__ == "__main__":
    main()
