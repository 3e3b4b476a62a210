"""What a cluster is made of beyond a control plane, and how each part is obtained when it is missing."""

from __future__ import annotations

from cluster import debian, pause
from cluster.layout import KEPT
from support.kube import go_build
from support.kube.parts import Parts, obtain, once

COREDNS_MODULE = "github.com/coredns/coredns"
COREDNS_VERSION = "v1.14.6"
_COREDNS = KEPT / f"coredns-{COREDNS_VERSION}"
COREDNS = _COREDNS / "coredns"


def obtain_all() -> Parts:
    """Every part; slow once per machine: Kubernetes is built in 8 minutes on two cores, CoreDNS in 4."""
    parts = obtain()
    once(debian.ROOT, lambda: debian.fetch(debian.ROOT))
    once(pause.ARCHIVE, lambda: pause.build(pause.ARCHIVE))
    once(_COREDNS, lambda: go_build.install(COREDNS_MODULE, COREDNS_VERSION, _COREDNS))
    return parts
