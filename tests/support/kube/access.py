"""Who reaches an API server, and how: clients, kubeconfigs, tokens and certificates for any user."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from support.kube.api import KubeApi, tls_context
from support.kube.certificates import Authority, Certificate
from support.kube.credentials import certificate_user, impersonating, write_kubeconfig

TOKEN_SECONDS = 24 * 3600
ADMIN_GROUP = "system:masters"


class Access:
    """Ways into one API server. Files that it writes lie in ``folder``."""

    def __init__(self, server: str, folder: Path, authority: Authority, kubectl: Path) -> None:
        self.server = server
        """URL of the API server."""
        self.folder = folder
        self.kubectl = kubectl
        self._authority = authority
        self._admin = authority.client("admin", [ADMIN_GROUP])
        self.kubeconfig = self.certificate_kubeconfig("admin", self._admin)
        """Path of a kubeconfig for cluster-admin."""
        self._clients: list[KubeApi] = []
        self.api = self._client_of(self._admin)
        """Requests as cluster-admin."""

    @property
    def authority(self) -> Path:
        """The certificate that clients of the API server trust."""
        return self._authority.certificate

    def close_clients(self) -> None:
        for client in self._clients:
            client.close()

    def certificate(self, user: str, groups: Sequence[str] = ()) -> Certificate:
        """A client certificate for ``user``."""
        return self._authority.client(user, groups)

    def serving_certificate(self, name: str) -> Certificate:
        """A server certificate for a server on loopback that clients of this control plane trust."""
        return self._authority.serving(name, ["127.0.0.1"], ["localhost"])

    def client(self, user: str, groups: Sequence[str] = ("system:authenticated",)) -> KubeApi:
        """Requests as ``user``, by impersonation."""
        headers = [("Impersonate-User", user), *(("Impersonate-Group", group) for group in groups)]
        return self._client_of(self._admin, headers)

    def service_account_client(self, namespace: str, name: str) -> KubeApi:
        """Requests with a service account's token."""
        made = KubeApi(
            self.server,
            tls_context(str(self.authority)),
            [("Authorization", f"Bearer {self.service_account_token(namespace, name)}")],
        )
        self._clients.append(made)
        return made

    def user_kubeconfig(self, user: str, groups: Sequence[str] = ("system:authenticated",)) -> Path:
        """A kubeconfig that acts as ``user``, by impersonation."""
        target = self.folder / f"{user.replace(':', '-')}.kubeconfig"
        return write_kubeconfig(target, self.server, self.authority, impersonating(self._admin, user, groups))

    def service_account_token(self, namespace: str, name: str) -> str:
        """A token of a service account, as its pods would get it."""
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"expirationSeconds": TOKEN_SECONDS},
        }
        path = self.api.path("serviceaccounts", namespace, name, "token")
        token: str = self.api.request("POST", path, body=body)["status"]["token"]
        return token

    def service_account_kubeconfig(self, namespace: str, name: str) -> Path:
        """A kubeconfig with a service account's token, its namespace the default one."""
        target = self.folder / f"{namespace}-{name}.kubeconfig"
        user = {"token": self.service_account_token(namespace, name)}
        return write_kubeconfig(target, self.server, self.authority, user, namespace)

    def run_kubectl(self, *arguments: str, kubeconfig: Path | None = None) -> str:
        """Standard output of ``kubectl ARGUMENTS``; raises CalledProcessError, its stderr in a note."""
        command = [str(self.kubectl), f"--kubeconfig={kubeconfig or self.kubeconfig}", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            error = subprocess.CalledProcessError(done.returncode, command, done.stdout, done.stderr)
            error.add_note(done.stderr)
            raise error
        return done.stdout

    def certificate_kubeconfig(self, name: str, certificate: Certificate) -> Path:
        """A kubeconfig with a client certificate."""
        target = self.folder / f"{name}.kubeconfig"
        return write_kubeconfig(target, self.server, self.authority, certificate_user(certificate))

    def _client_of(self, certificate: Certificate, headers: Sequence[tuple[str, str]] = ()) -> KubeApi:
        tls = tls_context(str(self.authority), str(certificate.certificate), str(certificate.key))
        made = KubeApi(self.server, tls, headers)
        self._clients.append(made)
        return made
