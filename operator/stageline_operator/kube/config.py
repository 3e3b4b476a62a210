"""Where the API server is and who we are there: from a kubeconfig, or from the pod that we run in."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from kubernetes.aio import config
from kubernetes.aio.client import Configuration as Configuration

from stageline_operator.api.errors import OperatorError

_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


@dataclass(frozen=True, slots=True)
class Login:
    """What another HTTP client needs to reach the same server as the same user. Files are paths of PEM files."""

    server: str
    authority: str | None
    certificate: str | None
    key: str | None
    token: str | None
    insecure: bool
    proxy: str | None


async def load(kubeconfig: Path | None) -> Configuration:
    """The client's configuration: ``kubeconfig``, else $KUBECONFIG, else the pod's service account.

    Raises:
        OperatorError: none of them is there or readable; says what was looked at.
    """
    found = kubeconfig or os.environ.get("KUBECONFIG")
    loaded = Configuration()
    try:
        if found:
            await config.load_kube_config(config_file=str(found), client_configuration=loaded)
        else:
            config.load_incluster_config(client_configuration=loaded)
    except config.ConfigException as error:
        place = str(found) if found else "this pod's service account (no --kubeconfig, no $KUBECONFIG)"
        raise OperatorError(f"no way to the API server from {place}: {error}") from error
    loaded.connection_pool_maxsize = 0  # no limit: each watch keeps a connection, and no call may wait for one
    loaded.client_session_kwargs = {"trust_env": False}  # a proxy is named in the kubeconfig, never picked up
    return loaded


async def login(loaded: Configuration) -> Login:
    """The same for another client, with the token as it is now: tokens of pods are renewed within the hour."""
    if loaded.refresh_api_key_hook is not None:
        loaded.refresh_api_key_hook(loaded)
    token = loaded.api_key.get("BearerToken")
    return Login(
        server=loaded.host,
        authority=loaded.ssl_ca_cert,
        certificate=loaded.cert_file,
        key=loaded.key_file,
        token=token.split(" ", 1)[-1] if token else None,
        insecure=not loaded.verify_ssl,
        proxy=loaded.proxy,
    )


def own_namespace() -> str:
    """Namespace of the pod that we run in; ``default`` outside of one."""
    return _NAMESPACE_FILE.read_text().strip() if _NAMESPACE_FILE.exists() else "default"
