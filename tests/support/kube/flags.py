"""The command lines of the components: everything that makes a test's control plane what it is."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path

from support.kube.certificates import Certificate
from support.kube.parts import GANG_VERSION, VERSION, Parts

SERVICE_CIDR = "10.96.0.0/16"

CONTROLLERS = (
    "namespace-controller",
    "serviceaccount-controller",
    "root-ca-certificate-publisher-controller",
    "garbage-collector-controller",
    "pod-garbage-collector-controller",
    "node-lifecycle-controller",
    "taint-eviction-controller",
    "deployment-controller",
    "replicaset-controller",
    "disruption-controller",
    "horizontal-pod-autoscaler-controller",
    "resourcequota-controller",
    "clusterrole-aggregation-controller",
)
"""What the operator's tests can meet. The other controllers would cost seconds at each start, since all share a limit
of 20 requests a second. No endpoints: fake nodes' pods have loopback addresses, which no EndpointSlice may name."""

AUDIT_POLICY = """\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
# Reads and heartbeats of the cluster's own parts would drown what tests look for.
- {level: None, verbs: [get, list, watch], users: ["system:apiserver", "system:kube-scheduler"]}
- {level: None, verbs: [get, list, watch], users: ["system:kube-controller-manager"]}
- {level: None, verbs: [get, list, watch], userGroups: ["system:serviceaccounts:kube-system"]}
- {level: None, users: ["fake-kubelet"], verbs: [get, list, watch]}
- {level: None, users: ["fake-kubelet"], resources: [{group: coordination.k8s.io, resources: [leases]}]}
- {level: None, nonResourceURLs: ["/healthz*", "/livez*", "/readyz*"]}
- level: Request
"""


@dataclass(frozen=True)
class Settings:
    """What a caller may choose about a control plane."""

    version: str = VERSION
    address: str = "127.0.0.1"
    """Where the API server listens. On a loopback address it cannot name itself in the `kubernetes` Service."""
    node_grace_seconds: int = 6
    """A node without a heartbeat for so long is lost (a real cluster: 40 to 50)."""
    feature_gates: str = ""
    """Of all components, like "GenericWorkload=true"."""
    runtime_config: str = ""
    """API groups and versions to serve beyond the default ones, like "scheduling.k8s.io/v1alpha1=true"."""
    controllers: tuple[str, ...] = CONTROLLERS
    """Controllers of the controller manager; ("*",) for the default ones."""
    api_flags: tuple[str, ...] = ()
    controller_flags: tuple[str, ...] = ()
    scheduler_flags: tuple[str, ...] = ()


GANG_SETTINGS = Settings(
    version=GANG_VERSION,
    feature_gates="GenericWorkload=true",
    runtime_config="scheduling.k8s.io/v1beta1=true",
    # PodGroups get a finalizer that this controller alone takes away.
    controllers=(*CONTROLLERS, "podgroup-protection-controller"),
)
"""A scheduler that places the pods of a PodGroup together or not at all."""


@dataclass(frozen=True)
class Layout:
    """Files and ports of one control plane."""

    folder: Path
    authority: Path
    serving: Certificate
    service_accounts: Certificate
    controller_kubeconfig: Path
    scheduler_kubeconfig: Path
    api_port: int
    etcd_port: int
    etcd_peer_port: int

    @property
    def audit_log(self) -> Path:
        return self.folder / "audit.log"


def etcd(parts: Parts, layout: Layout) -> list[str]:
    client, peer = (f"http://127.0.0.1:{port}" for port in (layout.etcd_port, layout.etcd_peer_port))
    return [
        str(parts.etcd),
        f"--data-dir={layout.folder / 'etcd-data'}",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=default={peer}",
        "--unsafe-no-fsync",
        "--quota-backend-bytes=4294967296",
    ]


def api_server(parts: Parts, layout: Layout, settings: Settings) -> list[str]:
    policy = layout.folder / "audit-policy.yaml"
    policy.write_text(AUDIT_POLICY)
    flags = [
        f"--etcd-servers=http://127.0.0.1:{layout.etcd_port}",
        f"--bind-address={settings.address}",
        f"--secure-port={layout.api_port}",
        f"--tls-cert-file={layout.serving.certificate}",
        f"--tls-private-key-file={layout.serving.key}",
        f"--client-ca-file={layout.authority}",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={layout.service_accounts.certificate}",
        f"--service-account-signing-key-file={layout.service_accounts.key}",
        f"--service-cluster-ip-range={SERVICE_CIDR}",
        "--authorization-mode=Node,RBAC",
        "--allow-privileged=true",
        "--enable-admission-plugins=OwnerReferencesPermissionEnforcement",
        f"--audit-policy-file={policy}",
        f"--audit-log-path={layout.audit_log}",
        "--audit-log-maxsize=100000",
        "--profiling=false",
        *settings.api_flags,
    ]
    if ipaddress.ip_address(settings.address).is_loopback:
        flags.append("--endpoint-reconciler-type=none")
    if settings.runtime_config:
        flags.append(f"--runtime-config={settings.runtime_config}")
    return [str(parts.component("kube-apiserver")), *flags, *_feature_gates(settings)]


def controller_manager(parts: Parts, layout: Layout, settings: Settings) -> list[str]:
    flags = [
        f"--kubeconfig={layout.controller_kubeconfig}",
        f"--root-ca-file={layout.authority}",
        f"--service-account-private-key-file={layout.service_accounts.key}",
        "--use-service-account-credentials",
        "--leader-elect=false",
        "--secure-port=0",
        f"--controllers={','.join(settings.controllers)}",
        f"--node-monitor-grace-period={settings.node_grace_seconds}s",
        "--node-monitor-period=1s",
        # The default is one node in ten seconds, and none in a small cluster with most nodes lost.
        "--node-eviction-rate=100",
        "--secondary-node-eviction-rate=100",
        "--profiling=false",
        *settings.controller_flags,
    ]
    return [str(parts.component("kube-controller-manager")), *flags, *_feature_gates(settings)]


def scheduler(parts: Parts, layout: Layout, settings: Settings) -> list[str]:
    flags = [
        f"--kubeconfig={layout.scheduler_kubeconfig}",
        "--leader-elect=false",
        "--secure-port=0",
        # The default of 50 requests a second would bind 25 pods a second.
        "--kube-api-qps=1000",
        "--kube-api-burst=1000",
        "--profiling=false",
        *settings.scheduler_flags,
    ]
    return [str(parts.component("kube-scheduler")), *flags, *_feature_gates(settings)]


def _feature_gates(settings: Settings) -> list[str]:
    return [f"--feature-gates={settings.feature_gates}"] if settings.feature_gates else []
