"""Several machines on this one: network namespaces on a bridge of their own. Needs root."""

from __future__ import annotations

import ctypes
import itertools
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

_CLONE_NEWNET = 0x40000000
_numbers = itertools.count()


class Machines:
    """``count`` machines that reach each other and nothing else; use :func:`machines`."""

    def __init__(self, count: int) -> None:
        self._prefix = f"sl{os.getpid()}x{next(_numbers)}"
        self._bridge = self._prefix[:15]
        self.addresses = [f"10.213.7.{number + 1}" for number in range(count)]

    def _name(self, number: int) -> str:
        return f"{self._prefix}-{number}"

    def make(self) -> None:
        _ip("link", "add", self._bridge, "type", "bridge")
        _ip("link", "set", self._bridge, "up")
        for number, address in enumerate(self.addresses):
            name, here = self._name(number), f"v{number}{self._prefix}"[:15]
            _ip("netns", "add", name)
            _ip("link", "add", here, "type", "veth", "peer", "name", "eth0", "netns", name)
            _ip("link", "set", here, "master", self._bridge, "up")
            _ip("-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
            _ip("-n", name, "link", "set", "eth0", "up")
            _ip("-n", name, "link", "set", "lo", "up")

    def remove(self) -> None:
        for number in range(len(self.addresses)):
            subprocess.run(["ip", "netns", "delete", self._name(number)], capture_output=True)
        subprocess.run(["ip", "link", "delete", self._bridge], capture_output=True)

    @contextmanager
    def on(self, number: int) -> Iterator[str]:
        """This thread, and the processes that it starts meanwhile, are on that machine; gives its address."""
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        there = os.open(f"/run/netns/{self._name(number)}", os.O_RDONLY)
        try:
            _enter(there)
            try:
                yield self.addresses[number]
            finally:
                _enter(home)
        finally:
            os.close(home)
            os.close(there)


@contextmanager
def machines(count: int) -> Iterator[Machines]:
    """Removed at the end."""
    made = Machines(count)
    try:
        made.make()
        yield made
    finally:
        made.remove()


def _enter(descriptor: int) -> None:
    if ctypes.CDLL(None, use_errno=True).setns(descriptor, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
