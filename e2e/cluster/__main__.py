"""A real Kubernetes on one machine: control plane, two nodes with containers of their own, DNS, a registry.

PYTHONPATH=tests:e2e python -m cluster parts    obtain what it is made of (slow once per machine)
PYTHONPATH=tests:e2e python -m cluster up       bring it up; prints where its kubeconfig is
PYTHONPATH=tests:e2e python -m cluster images   build the project's images and give them to its nodes
PYTHONPATH=tests:e2e python -m cluster base     print what dpkg says of the images' base
PYTHONPATH=tests:e2e python -m cluster down     remove it
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from cluster import delivery, images, life
from cluster.commands import CommandError
from cluster.daemons import DaemonError
from cluster.layout import KUBECONFIG
from cluster.parts import obtain_all
from support.kube.parts import obtain_clients


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m cluster")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("parts", help="obtain every part")
    commands.add_parser("up", help="bring the cluster up, unless it is")
    command = commands.add_parser(
        "images", help="build the project's images; give them to the nodes when the cluster is up"
    )
    # Not `choices`: before Python 3.12 it refuses an empty list of positional arguments.
    command.add_argument("targets", nargs="*", metavar="TARGET", help="operator, engine; both when none is named")
    commands.add_parser("base", help="print what dpkg says of the base of images that were built")
    commands.add_parser("down", help="remove the cluster; images and parts are kept")
    arguments = parser.parse_args()
    if arguments.command == "parts":
        obtain_all()
    elif arguments.command == "up":
        life.up()
        print(f"export KUBECONFIG={KUBECONFIG} PATH={obtain_clients().kubectl.parent}:$PATH")
    elif arguments.command == "images":
        if unknown := set(arguments.targets) - set(images.TARGETS):
            parser.error(f"no such image: {', '.join(sorted(unknown))}; there are {' and '.join(images.TARGETS)}")
        make_images(arguments.targets or images.TARGETS)
    elif arguments.command == "base":
        print(images.base_packages(), end="")
    else:
        life.down()


def make_images(targets: Sequence[str]) -> None:
    """Builds, gives to the nodes when there are any, and prints names and sizes."""
    obtain_all()
    for target in targets:
        name = images.build(target)
        if life.is_up():
            delivery.deliver(name)
        print(name, images.size(name))


if __name__ == "__main__":
    try:
        main()
    except (life.ClusterError, CommandError, DaemonError) as error:
        sys.exit(f"cluster: {error}")
