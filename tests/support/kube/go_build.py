"""Builds the one binary that holds every Kubernetes component, from the Go module ``k8s.io/kubernetes``.

The module refers to its own staging folders by relative paths, which do not travel with a module; each becomes a
replacement by the published module of the same release (``k8s.io/api v0.34.4`` for Kubernetes 1.34.4). Takes about
eight minutes on two cores. Where modules come from (GOPROXY and the like) is the environment's affair.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from support.kube.progress import say

SOURCE = Path(__file__).parent / "binary" / "main.go"
COMPONENTS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy", "kubelet")
MODULE = "k8s.io/kubernetes"


class GoBuildError(RuntimeError):
    """A step of the build failed; the text holds the command and the end of what it printed."""


def build(version: str, target: Path) -> None:
    """Puts the components of Kubernetes ``version`` (like "1.34.4") into the folder ``target``, all or nothing."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as scratch:
        work = Path(scratch)
        say(f"Kubernetes {version}: fetching modules")
        (work / "go.mod").write_text(module_file(version, work))
        shutil.copy(SOURCE, work / "main.go")
        output = work / "bin"
        output.mkdir()
        say(f"Kubernetes {version}: building (about 8 minutes on two cores, once per machine)")
        flags = ["-mod=mod", "-trimpath", "-buildvcs=false", "-ldflags", linker_flags(version)]
        _go(["build", *flags, "-o", str(output / COMPONENTS[0]), "."], work)
        for name in COMPONENTS[1:]:
            (output / name).hardlink_to(output / COMPONENTS[0])
        output.rename(target)


def install(module: str, version: str, target: Path) -> None:
    """Builds the command of ``module`` (like "github.com/coredns/coredns") at ``version`` (like "v1.14.6") into the
    folder ``target``, all or nothing."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as scratch:
        say(f"{module} {version}: building (once per machine)")
        output = Path(scratch) / "bin"
        flags = ["-trimpath", "-buildvcs=false", "-ldflags", "-s -w"]
        _go(["install", *flags, f"{module}@{version}"], Path(scratch), GOBIN=str(output))
        output.rename(target)


def module_file(version: str, folder: Path) -> str:
    """Our go.mod: Kubernetes at ``version``, with its staging modules replaced by the published ones."""
    download = json.loads(_go(["mod", "download", "-json", f"{MODULE}@v{version}"], folder))
    theirs = json.loads(_go(["mod", "edit", "-json", download["GoMod"]], folder))
    staging = [each["Old"]["Path"] for each in theirs["Replace"] if each["New"]["Path"].startswith("./staging/")]
    published = f"v0.{version.removeprefix('1.')}"
    lines = [
        "module stageline.dev/test/kube",
        f"go {theirs['Go']}",
        *(f"godebug {each['Key']}={each['Value']}" for each in theirs.get("Godebug") or []),
        f"require {MODULE} v{version}",
        *(f"replace {path} => {path} {published}" for path in staging),
    ]
    return "\n".join(lines) + "\n"


def linker_flags(version: str) -> str:
    """The version that the components report; without it they say v0.0.0 and clients refuse them."""
    major, minor, _ = version.split(".", 2)
    values = {"gitVersion": f"v{version}", "gitMajor": major, "gitMinor": minor}
    return " ".join(["-s -w", *(f"-X k8s.io/component-base/version.{key}={value}" for key, value in values.items())])


def _go(arguments: list[str], folder: Path, **variables: str) -> str:
    executable = shutil.which("go")
    if executable is None:
        raise GoBuildError("the command `go` is missing: install Go 1.24 or newer")
    environment = {**os.environ, "GOFLAGS": "", "GOWORK": "off", "CGO_ENABLED": "0", **variables}
    done = subprocess.run(
        [executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-30:])
        raise GoBuildError(f"`go {' '.join(arguments)}` ended with {done.returncode}:\n{tail}")
    return done.stdout
