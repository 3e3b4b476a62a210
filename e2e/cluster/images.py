"""The project's own images: built from its Dockerfile without a container engine's service, kept, pushed to nodes.

A person at home uses `docker build` or the like; docs/images.md. Layers are kept from one build to the next, so that a
change of code costs seconds.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import tomllib
from pathlib import Path

from cluster import debian
from cluster.commands import CommandError, run
from cluster.layout import KEPT, REGISTRY
from support.kube.progress import say

ROOT = Path(__file__).parents[2]
BASE = "docker.io/library/python:3.11-slim-bookworm"
"""What the Dockerfile builds on; here a Debian of our own making under this name."""
TAG: str = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
TARGETS = ("operator", "engine")

_CERTIFICATES = "/run/package-index.crt"
_STORE = KEPT / "images"
_POLICY = '{"default": [{"type": "insecureAcceptAnything"}]}'
"""Whose signatures are asked for: nobody's, the only image that is pulled is our own."""
_IN_BASE = "python3,python3-venv,ca-certificates"
_NOT_IN_BASE = (
    "var/cache/apt/*",
    "var/lib/apt/lists/*",
    "var/log/*",
    "usr/share/doc/*",
    "usr/share/man/*",
    "usr/share/locale/*",
    "usr/share/info/*",
    "usr/local/lib/**/__pycache__",
    "usr/local/lib/python3.*/site-packages/setuptools*",
    "usr/local/lib/python3.*/site-packages/pkg_resources",
)


def build(target: str) -> str:
    """Builds the image ``target`` of the Dockerfile; returns its name.

    Raises:
        CommandError: a step of the build failed.
    """
    _make_base()
    name = image(target)
    say(f"building {name}")
    arguments = ["--target", target, "--tag", name, "--layers", "--pull=never", f"--build-arg=BASE={BASE}"]
    if bundle := os.environ.get("PIP_CERT") or os.environ.get("SSL_CERT_FILE"):
        arguments += [f"--volume={bundle}:{_CERTIFICATES}:ro"]
        arguments += [f"--build-arg={each}={_CERTIFICATES}" for each in ("PIP_CERT", "SSL_CERT_FILE")]
    _build(*arguments, str(ROOT))
    return name


def push(name: str) -> None:
    """Gives an image to the cluster's registry; only layers that it lacks travel."""
    say(f"pushing {name}")
    target = f"docker://{REGISTRY}/{name.removeprefix('docker.io/')}"
    _buildah(
        "push", "--quiet", "--tls-verify=false", "--compression-format=zstd", "--compression-level=1", name, target
    )


def image(target: str) -> str:
    """The name by which manifests and the chart know the image ``target``."""
    return f"docker.io/stageline/{target}:{TAG}"


def size(name: str) -> str:
    """Size of an image's layers, unpacked, like "242 MB"."""
    return _buildah("images", "--format={{.Size}}", name).strip()


def base_packages() -> str:
    """What dpkg keeps of the packages in the base that images are built on here."""
    container = _buildah("from", "--pull=never", BASE).strip()
    try:
        return (Path(_buildah("mount", container).strip()) / "var/lib/dpkg/status").read_text()
    finally:
        _buildah("rm", container)


def _make_base() -> None:
    """A small Debian with Python where the official image has it: `python3` and `pip` in /usr/local/bin."""
    if BASE in _buildah("images", "--format={{.Name}}:{{.Tag}}").split():
        return
    say("making the base image from Debian's packages")
    KEPT.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".base-", dir=KEPT) as scratch:
        root = Path(scratch) / "root"
        environment = {**debian.environment(), "DEBOOTSTRAP_DIR": f"{debian.ROOT}/usr/share/debootstrap"}
        program = f"{debian.ROOT}/usr/sbin/debootstrap"
        run(program, "--variant=minbase", f"--include={_IN_BASE}", "bookworm", str(root), environment=environment)
        run("chroot", str(root), "python3", "-m", "venv", "/usr/local")
        for pattern in _NOT_IN_BASE:
            run("rm", "-rf", *(str(path) for path in root.glob(pattern)))
        run("tar", "--create", f"--directory={root}", f"--file={scratch}/root.tar", "--numeric-owner", ".")
        (Path(scratch) / "Dockerfile").write_text('FROM scratch\nADD root.tar /\nCMD ["python3"]\n')
        (Path(scratch) / ".dockerignore").write_text("root\n")
        _build(f"--tag={BASE}", scratch)


def _build(*arguments: str) -> None:
    """A build, its output shown as it comes: it may take minutes."""
    done = subprocess.run(
        _command("build", "--isolation=oci", f"--runtime={debian.ROOT}/usr/sbin/runc", "--network=host", *arguments),
        env=_environment(),
    )
    if done.returncode != 0:
        raise CommandError(f"the build ended with {done.returncode}: `buildah build {' '.join(arguments)}`")


def _buildah(*arguments: str) -> str:
    return run(*_command(*arguments), environment=_environment())


def _command(command: str, *arguments: str) -> list[str]:
    _STORE.mkdir(parents=True, exist_ok=True)
    policy = _STORE / "policy.json"
    policy.write_text(_POLICY)
    store = [f"--root={_STORE}", f"--runroot={_STORE}/run", "--storage-driver=overlay"]
    signatures = [f"--signature-policy={policy}"] if command in ("build", "push") else []
    return [f"{debian.ROOT}/usr/bin/buildah", *store, command, *signatures, *arguments]


def _environment() -> dict[str, str]:
    return {**os.environ, **debian.environment()}
