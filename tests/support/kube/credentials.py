"""Kubeconfig files: how a client reaches the API server, and as whom."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from support.kube.certificates import Certificate


def certificate_user(certificate: Certificate) -> dict[str, Any]:
    return {
        "client-certificate-data": _encoded(certificate.certificate),
        "client-key-data": _encoded(certificate.key),
    }


def impersonating(certificate: Certificate, user: str, groups: Sequence[str]) -> dict[str, Any]:
    """The owner of ``certificate`` acting as somebody else."""
    return {**certificate_user(certificate), "as": user, "as-groups": list(groups)}


def write_kubeconfig(
    target: Path, server: str, authority: Path, user: Mapping[str, Any], namespace: str = "default"
) -> Path:
    """Writes a kubeconfig with one context; JSON, which is YAML too."""
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {"name": "test", "cluster": {"server": server, "certificate-authority-data": _encoded(authority)}}
        ],
        "users": [{"name": "test", "user": dict(user)}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test", "namespace": namespace}}],
        "current-context": "test",
    }
    target.write_text(json.dumps(content, indent=1))
    target.chmod(0o600)
    return target


def _encoded(path: Path) -> str:
    return b64encode(path.read_bytes()).decode()
