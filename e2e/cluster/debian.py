"""Debian's packages, unpacked into a folder instead of installed: no service starts, nothing of the machine changes."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from cluster.commands import CommandError, run
from cluster.layout import KEPT
from support.kube.progress import say

ROOT = KEPT / "debian"
PACKAGES = (
    "containerd",
    "runc",
    "containernetworking-plugins",
    "docker-registry",
    "buildah",
    "debootstrap",
    "iptables",
    # Libraries of the above that a small Debian lacks.
    "libassuan0",
    "libdevmapper1.02.1",
    "libgpgme11",
    "libip6tc2",
    "libmnl0",
    "libnetfilter-conntrack3",
    "libnfnetlink0",
    "libnftnl11",
    "libseccomp2",
    "libxtables12",
)
CNI_PLUGINS = ROOT / "usr/lib/cni"
_LIBRARIES = ROOT / "usr/lib/x86_64-linux-gnu"
_IPTABLES = ("iptables", "iptables-save", "iptables-restore", "ip6tables", "ip6tables-save", "ip6tables-restore")


def fetch(target: Path) -> None:
    """Unpacks all packages into the folder ``target``."""
    say(f"fetching {len(PACKAGES)} Debian packages")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as scratch:
        root = Path(scratch) / "root"
        for package in _download(Path(scratch)):
            run("dpkg", "--extract", str(package), str(root))
        for name in _IPTABLES:
            # Debian's installer would make these; they choose the tool by the name they are called.
            (root / "usr/sbin" / name).symlink_to("xtables-nft-multi")
        root.rename(target)


def environment() -> Mapping[str, str]:
    """Variables for a program of these packages, or for one that calls them by name."""
    folders = [f"{ROOT}/usr/sbin", f"{ROOT}/usr/bin", os.environ["PATH"], "/usr/sbin", "/sbin"]
    return {
        "PATH": ":".join(folders),
        "LD_LIBRARY_PATH": str(_LIBRARIES),
        "XTABLES_LIBDIR": str(_LIBRARIES / "xtables"),
    }


def _download(folder: Path) -> list[Path]:
    command = ["sh", "-c", 'cd "$1" && shift && apt-get download -qq "$@"', "sh", str(folder), *PACKAGES]
    try:
        run(*command)
    except CommandError:
        # A fresh machine has no package lists yet.
        run("apt-get", "update", "-qq")
        run(*command)
    return sorted(folder.glob("*.deb"))
