"""A real control plane: etcd, kube-apiserver, kube-controller-manager and kube-scheduler on loopback ports.

    with ControlPlane() as plane:
        plane.api.list("pods", "default")

Ready in a few seconds. Everything lies in one temporary folder and is gone after ``stop``, and also when the test
process is killed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from signal import SIGCONT, SIGKILL, SIGSTOP
from typing import Self

import httpx

from support.kube import flags
from support.kube.access import Access
from support.kube.api import ApiError, Object
from support.kube.audit import AuditLog
from support.kube.certificates import Authority
from support.kube.flags import Layout, Settings
from support.kube.parts import Parts, obtain
from support.kube.ports import pick_ports
from support.kube.processes import Guard, ServerProcess
from support.kube.waiting import wait_until

START_SECONDS = 90.0
SERVICE_OF_API = "10.96.0.1"
"""The first address of the Services' range is the API server's own."""


class ControlPlane(Access):
    """The processes of one control plane and the ways to reach it."""

    def __init__(self, settings: Settings | None = None, parts: Parts | None = None) -> None:
        self.settings = settings or Settings()
        parts = parts or obtain(self.settings.version)
        self.helm = parts.helm
        folder = Path(tempfile.mkdtemp(prefix="stageline-kube-"))
        self._guard = Guard(folder)
        authority = Authority(folder / "certificates")
        self._layout = lay_out(folder, authority, self.settings.address)
        server = f"https://{self.settings.address}:{self._layout.api_port}"
        super().__init__(server, folder, authority, parts.kubectl)
        for component in ("controller-manager", "scheduler"):
            self.certificate_kubeconfig(component, self.certificate(f"system:kube-{component}"))
        self.audit = AuditLog(self._layout.audit_log)
        self._etcd = self._process("etcd", flags.etcd(parts, self._layout))
        self._api_server = self._process("kube-apiserver", flags.api_server(parts, self._layout, self.settings))
        self._controllers = self._process(
            "kube-controller-manager", flags.controller_manager(parts, self._layout, self.settings)
        )
        self._scheduler = self._process("kube-scheduler", flags.scheduler(parts, self._layout, self.settings))

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pids(self) -> list[int]:
        """Process ids of the components that run."""
        processes = (self._etcd, self._api_server, self._controllers, self._scheduler)
        return [process.pid for process in processes if process.is_running]

    # -- life ----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Starts all components; returns when pods can be created."""
        self._etcd.start()
        self._api_server.start()
        self._wait_ready()
        self._controllers.start()
        self._scheduler.start()
        # Pods are refused until the controller manager has made the namespace's service account.
        self._wait_service_account("default")

    def stop(self) -> None:
        """Ends every process and removes the folder."""
        self.close_clients()
        # No farewells: what they would write is thrown away with the folder.
        for process in (self._scheduler, self._controllers, self._api_server, self._etcd):
            process.stop(SIGKILL)
        self._guard.close()

    def restart_api(self) -> None:
        """Ends the API server and starts it again, with its data; returns when it is ready."""
        with self.api_stopped():
            pass

    @contextmanager
    def api_stopped(self) -> Iterator[None]:
        """No API server inside the block: connections are refused; it is back and ready afterwards."""
        # A polite end would wait a minute for the watches of its clients.
        self._api_server.stop(SIGKILL)
        try:
            yield
        finally:
            self._api_server.start()
            self._wait_ready()

    @contextmanager
    def api_frozen(self) -> Iterator[None]:
        """Inside the block the API server accepts connections and answers nothing."""
        with _frozen(self._api_server):
            yield

    @contextmanager
    def etcd_stopped(self) -> Iterator[None]:
        """No etcd inside the block; started again afterwards with its data."""
        self._etcd.stop(SIGKILL)
        try:
            yield
        finally:
            self._etcd.start()
            self._wait_ready()

    @contextmanager
    def etcd_frozen(self) -> Iterator[None]:
        """Inside the block etcd answers nothing, so that requests hang until their time-outs."""
        with _frozen(self._etcd):
            yield
        self._wait_ready()

    @contextmanager
    def controllers_stopped(self) -> Iterator[None]:
        """No controller manager inside the block: no garbage collection, no node lifecycle."""
        self._controllers.stop(SIGKILL)
        try:
            yield
        finally:
            self._controllers.start()

    @contextmanager
    def scheduler_stopped(self) -> Iterator[None]:
        """No scheduler inside the block: new pods stay unbound."""
        self._scheduler.stop(SIGKILL)
        try:
            yield
        finally:
            self._scheduler.start()

    # -- what -----------------------------------------------------------------------------------------------------

    def create_namespace(self, prefix: str = "test-", enforce: str = "restricted") -> str:
        """A new namespace where pods can be created at once; ``enforce`` is its Pod Security Standard."""
        labels = {"pod-security.kubernetes.io/enforce": enforce}
        made = self.api.create(
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"generateName": prefix, "labels": labels}}
        )
        name: str = made["metadata"]["name"]
        self._wait_service_account(name)
        return name

    def audit_events(self, user: str | None = None, namespace: str | None = None) -> list[Object]:
        """Audit events so far, oldest first: of one user, about one namespace, or all.

        A request's event is written when the request has ended: a moment after its caller has the answer.
        """
        return self.audit.events(user, namespace)

    def logs(self) -> str:
        """The ends of the components' logs, for a failure's message."""
        processes = (self._etcd, self._api_server, self._controllers, self._scheduler)
        return "\n".join(f"--- {each.name}\n{each.log_tail()}" for each in processes if each.log.exists())

    # -- below ----------------------------------------------------------------------------------------------------

    def _process(self, name: str, command: list[str]) -> ServerProcess:
        return ServerProcess(name, command, self.folder, self._guard)

    def _wait_ready(self) -> None:
        wait_until(self._is_ready, "the API server", START_SECONDS)

    def _is_ready(self) -> bool:
        for process in (self._etcd, self._api_server):
            if not process.is_running:
                raise RuntimeError(f"{process.name} ended:\n{process.log_tail()}")
        try:
            return self.api.is_ready()
        except httpx.TransportError:
            return False

    def _wait_service_account(self, namespace: str) -> None:
        wait_until(
            lambda: self._has_service_account(namespace),
            f"the controller manager to serve namespace {namespace}",
            START_SECONDS,
        )

    def _has_service_account(self, namespace: str) -> bool:
        if not self._controllers.is_running:
            raise RuntimeError(f"the controller manager ended:\n{self._controllers.log_tail()}")
        try:
            return self.api.find("serviceaccounts", "default", namespace) is not None
        except ApiError as error:
            if error.status < httpx.codes.INTERNAL_SERVER_ERROR:
                raise
            return False


@contextmanager
def _frozen(process: ServerProcess) -> Iterator[None]:
    process.send(SIGSTOP)
    try:
        yield
    finally:
        process.send(SIGCONT)


def lay_out(folder: Path, authority: Authority, address: str) -> Layout:
    """Ports and certificates of a control plane whose API server listens on ``address`` and whose files lie in
    ``folder``."""
    api_port, etcd_port, peer_port = pick_ports(3, address)
    hosts = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"]
    return Layout(
        folder=folder,
        authority=authority.certificate,
        serving=authority.serving("kube-apiserver", sorted({"127.0.0.1", address, SERVICE_OF_API}), hosts),
        service_accounts=authority.signing_key("service-accounts"),
        controller_kubeconfig=folder / "controller-manager.kubeconfig",
        scheduler_kubeconfig=folder / "scheduler.kubeconfig",
        api_port=api_port,
        etcd_port=etcd_port,
        etcd_peer_port=peer_port,
    )
