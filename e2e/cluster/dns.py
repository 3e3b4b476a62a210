"""Names inside the cluster: a CoreDNS on this machine behind the Service that pods ask.

A process instead of pods: it is there before the first pod, and no image has to be built for it.
"""

from __future__ import annotations

from cluster import daemons
from cluster.layout import DNS_DOMAIN, DNS_SERVICE, HOST, STATE
from cluster.parts import COREDNS
from support.kube.access import Access

_USER = "coredns"
_COREFILE = """\
.:53 {{
    bind {host}
    errors
    kubernetes {domain} in-addr.arpa ip6.arpa {{
        kubeconfig {kubeconfig}
        pods insecure
        ttl 5
    }}
    cache 5
}}
"""


def start(access: Access) -> None:
    """Starts the server and makes the Service `kube-dns`."""
    kubeconfig = access.certificate_kubeconfig(_USER, access.certificate(_USER))
    corefile = STATE / "Corefile"
    corefile.write_text(_COREFILE.format(host=HOST, domain=DNS_DOMAIN, kubeconfig=kubeconfig))
    for body in _objects():
        access.api.apply(body)
    daemons.start("coredns", [str(COREDNS), "-conf", str(corefile)])


def _objects() -> list[dict[str, object]]:
    name = {"name": "kube-dns", "namespace": "kube-system"}
    ports = [{"name": "dns", "protocol": "UDP", "port": 53}, {"name": "dns-tcp", "protocol": "TCP", "port": 53}]
    watched = [
        {"apiGroups": [""], "resources": ["endpoints", "services", "pods", "namespaces"], "verbs": ["list", "watch"]},
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
    ]
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": _USER}
    user = {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": _USER}
    return [
        {"apiVersion": "v1", "kind": "Service", "metadata": name, "spec": {"clusterIP": DNS_SERVICE, "ports": ports}},
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": name | {"labels": {"kubernetes.io/service-name": "kube-dns"}},
            "addressType": "IPv4",
            "ports": ports,
            "endpoints": [{"addresses": [HOST]}],
        },
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRole",
            "metadata": {"name": _USER},
            "rules": watched,
        },
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": _USER},
            "roleRef": role,
            "subjects": [user],
        },
    ]
