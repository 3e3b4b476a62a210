"""A small certificate authority, made with the ``openssl`` command: who is who on a test's control plane."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

DAYS = "30"


class OpensslError(RuntimeError):
    """``openssl`` is missing or refused; the text holds what it said."""


@dataclass(frozen=True)
class Certificate:
    """Paths of a certificate and its key, both PEM."""

    certificate: Path
    key: Path


class Authority:
    """Issues certificates that the API server and its clients trust; keeps them in one folder."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._own = Certificate(folder / "ca.crt", folder / "ca.key")
        extensions = ["basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign,cRLSign"]
        _request("/CN=stageline-test", self._own, extensions, [])

    @property
    def certificate(self) -> Path:
        """The authority's own certificate: what clients trust."""
        return self._own.certificate

    def serving(self, name: str, addresses: Sequence[str], hosts: Sequence[str]) -> Certificate:
        """For a server at these IP addresses and host names."""
        names = ",".join([*(f"IP:{each}" for each in addresses), *(f"DNS:{each}" for each in hosts)])
        return self._issue(name, f"/CN={name}", ["extendedKeyUsage=serverAuth", f"subjectAltName={names}"])

    def client(self, user: str, groups: Sequence[str] = ()) -> Certificate:
        """For a client that Kubernetes knows as ``user`` in ``groups``."""
        subject = "".join(f"/O={group}" for group in groups) + f"/CN={user}"
        return self._issue(user.replace(":", "-"), subject, ["extendedKeyUsage=clientAuth"])

    def signing_key(self, name: str) -> Certificate:
        """A pair that signs service-account tokens."""
        return self._issue(name, f"/CN={name}", [])

    def _issue(self, name: str, subject: str, extensions: Sequence[str]) -> Certificate:
        made = Certificate(self._folder / f"{name}.crt", self._folder / f"{name}.key")
        _request(subject, made, extensions, ["-CA", str(self._own.certificate), "-CAkey", str(self._own.key)])
        return made


def _request(subject: str, target: Certificate, extensions: Sequence[str], signer: Sequence[str]) -> None:
    executable = shutil.which("openssl")
    if executable is None:
        raise OpensslError("the command `openssl` (3.0 or newer) is missing: install it")
    command = [executable, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc"]
    command += ["-days", DAYS, "-subj", subject, "-keyout", str(target.key), "-out", str(target.certificate)]
    # A configuration of our own: the system's would add extensions of its own choice.
    command += ["-config", "/dev/stdin", *(part for each in extensions for part in ("-addext", each)), *signer]
    config = "[req]\ndistinguished_name=name\n[name]\n"
    done = subprocess.run(command, input=config, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise OpensslError(f"openssl refused to make {target.certificate.name}: {done.stderr.strip()}")
