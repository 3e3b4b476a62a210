"""Several machines on this one: network namespaces on a bridge that this process is joined to too. Needs root."""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

_CLONE_NEWNET = 0x40000000


@dataclass(frozen=True)
class Machine:
    """One namespace."""

    name: str
    address: str

    def command(self, *arguments: str) -> list[str]:
        """The same command in this namespace."""
        return ["nsenter", f"--net=/run/netns/{self.name}", *arguments]

    @contextlib.contextmanager
    def entered(self) -> Iterator[str]:
        """This thread, and the processes that it starts meanwhile, are on that machine; gives its address."""
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        there = os.open(f"/run/netns/{self.name}", os.O_RDONLY)
        try:
            _enter(there)
            try:
                yield self.address
            finally:
                _enter(home)
        finally:
            os.close(home)
            os.close(there)


@dataclass(frozen=True)
class Network:
    """A bridge, and what hangs on it."""

    bridge: str
    address: str
    """Of this process, on the bridge."""
    machines: list[Machine]

    @property
    def addresses(self) -> list[str]:
        """Of the machines."""
        return [machine.address for machine in self.machines]


@contextlib.contextmanager
def joined_machines(count: int) -> Iterator[Network]:
    """So many machines; removed at the end, with what is left in them of the network."""
    assert os.geteuid() == 0, "network namespaces need root"
    tag = secrets.token_hex(3)
    # Private addresses that nothing else on this machine is likely to have.
    prefix = f"10.{100 + int(tag[:2], 16) % 100}.{int(tag[2:4], 16)}"
    bridge = f"slb{tag}"
    network = Network(
        bridge, f"{prefix}.1", [Machine(f"sl-{tag}-{number}", f"{prefix}.{number + 2}") for number in range(count)]
    )
    try:
        _ip("link", "add", bridge, "type", "bridge")
        _ip("addr", "add", f"{network.address}/24", "dev", bridge)
        _ip("link", "set", bridge, "up")
        for number, machine in enumerate(network.machines):
            _join(network, number, machine)
        yield network
    finally:
        for number, machine in enumerate(network.machines):
            subprocess.run(["ip", "netns", "del", machine.name], check=False, capture_output=True)
            subprocess.run(["ip", "link", "del", _plug(bridge, number)], check=False, capture_output=True)
        subprocess.run(["ip", "link", "del", bridge], check=False, capture_output=True)


def _plug(bridge: str, number: int) -> str:
    return f"{bridge}p{number}"


def _join(network: Network, number: int, machine: Machine) -> None:
    plug = _plug(network.bridge, number)
    _ip("netns", "add", machine.name)
    _ip("link", "add", plug, "type", "veth", "peer", "name", "eth0", "netns", machine.name)
    _ip("link", "set", plug, "master", network.bridge, "up")
    for words in (
        ("addr", "add", f"{machine.address}/24", "dev", "eth0"),
        ("link", "set", "eth0", "up"),
        ("link", "set", "lo", "up"),
    ):
        _ip("-n", machine.name, *words)


def _enter(descriptor: int) -> None:
    if ctypes.CDLL(None, use_errno=True).setns(descriptor, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)
