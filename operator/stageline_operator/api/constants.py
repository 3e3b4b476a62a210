"""Names and numbers that are an API: labels, annotations, ports, reasons. Each is written here once."""

from __future__ import annotations

from typing import Final

GROUP: Final = "stageline.dev"
"""API group, and prefix of every label and annotation."""
VERSION: Final = "v1alpha1"
"""The only version that is served and stored."""
API_VERSION: Final = f"{GROUP}/{VERSION}"
"""``apiVersion`` of a resource."""
KIND: Final = "InferenceDeployment"
"""Kind of the resource."""
PLURAL: Final = "inferencedeployments"
"""Name of the resource in paths and in RBAC rules."""
SINGULAR: Final = "inferencedeployment"
"""Name of one of them on the command line."""
SHORT_NAME: Final = "infdep"
"""Short name for ``kubectl get``."""
FIELD_MANAGER: Final = "stageline-operator"
"""Field manager of every write, so that ``managedFields`` tells ours from foreign fields."""

# Labels of every child.
LABEL_MANAGED_BY: Final = "app.kubernetes.io/managed-by"
"""Its value is FIELD_MANAGER. Watches and lists select by it, so that no foreign object ever streams in."""
LABEL_NAME: Final = f"{GROUP}/name"
"""Name of the InferenceDeployment."""
LABEL_REPLICA: Final = f"{GROUP}/replica"
"""Number of the pipeline replica, decimal."""
LABEL_ROLE: Final = f"{GROUP}/role"
"""ROLE_HEAD or ROLE_STAGE."""
LABEL_STAGE: Final = f"{GROUP}/stage"
"""Number of the pipeline stage, decimal; only on a stage's pods."""
LABEL_INCARNATION: Final = f"{GROUP}/incarnation"
"""Which pod in a row this is for its head or stage, decimal, from 0; a replacement has the next number."""
LABEL_REVISION: Final = f"{GROUP}/revision"
"""Hash of everything that a replica's pods depend on; all pods of a replica have the same."""
LABEL_EPOCH: Final = f"{GROUP}/epoch"
"""Epoch that the head reported when the pod was made, decimal, 0 for a replica's first pods. The epoch in force is in
the status: this label tells for which gap a pod was made."""
LABEL_GANG: Final = f"{GROUP}/gang"
"""Who places a replica's pods together; on its PodDisruptionBudget, NetworkPolicy and PodGroup. A replica keeps it."""

ROLE_HEAD: Final = "head"
"""API server and engine core; needs no GPU."""
ROLE_STAGE: Final = "stage"
"""All tensor-parallel ranks of one pipeline stage."""

# Annotations.
ANNOTATION_REVISION_CONTENT: Final = f"{GROUP}/content-version"
"""On a ControllerRevision: version of the form of its ``data``; see plan.revision."""
ANNOTATION_PDB_POLICY: Final = f"{GROUP}/voluntary-disruptions"
"""Says to a person who reads a PodDisruptionBudget what it protects."""

# Ports of the pods: the same in every replica, since each pod has its own address.
PORT_API: Final = 8000
"""Head: the OpenAI API and ``/metrics``."""
PORT_STATUS: Final = 8080
"""Head: ``/state``, ``/ready`` and ``/live``; stage: ``/ready``, ``/live`` and ``/metrics``. Reached by kubelets, the
operator and Prometheus."""
PORT_CONTROL: Final = 7400
"""Head: the control channel (ZeroMQ with CURVE keys) that stages join."""
PORT_NAME_API: Final = "api"
"""Name of PORT_API in containers and Services."""
PORT_NAME_STATUS: Final = "status"
"""Name of PORT_STATUS in containers."""
PORT_NAME_CONTROL: Final = "control"
"""Name of PORT_CONTROL in containers and in the peer Service."""
PATH_STATE: Final = "/state"
"""The head's truth as JSON; see api.state."""
PATH_READY: Final = "/ready"
"""Head: 200 when a token went through all stages lately. Stage: 200 when loaded and a member of the epoch."""
PATH_LIVE: Final = "/live"
"""200 while the pod's own main loop moves."""
PATH_METRICS: Final = "/metrics"
"""Prometheus metrics, on PORT_API of the head."""

OPERATOR_POD_LABELS: Final = {"app.kubernetes.io/name": "stageline-operator"}
"""Labels of the operator's own pods, in any namespace: NetworkPolicies let them reach PORT_STATUS. The chart sets
them."""

PROMETHEUS_POD_LABELS: Final = {"app.kubernetes.io/name": "prometheus"}
"""Labels of the pods of Prometheus, in any namespace, as its operator and the usual charts make them: NetworkPolicies
let them reach PORT_STATUS."""

CONTAINER_ENGINE: Final = "engine"
"""Name of the only container of head and stage pods that the operator makes."""
SECRET_KEY_CURVE: Final = "curve.key"
"""Key of the group Secret: the replica group's CURVE secret, from which head and stages derive theirs."""
SECRET_KEY_RAY_TOKEN: Final = "ray.token"
"""Key of the group Secret: Ray's authentication token."""

MAX_NAME: Final = 40
"""Longest name of a resource: pod names and host names add up to 23 characters, and DNS labels end at 63."""
MAX_STAGES: Final = 64
"""Most pipeline stages."""
MAX_TENSOR_PARALLEL: Final = 64
"""Most tensor-parallel ranks of a stage: they share one pod."""
MAX_REPLICAS: Final = 100
"""Most pipeline replicas of a resource: the status has to list each, since it is the operator's memory."""
MAX_LISTED: Final = 2 * MAX_REPLICAS
"""Replicas that the status lists: in a roll-out as many again may exist."""
MAX_EFFECTIVE: Final = 512
"""Fields of the spec that the status lists with the value in force."""
MAX_LOG_TAIL: Final = 2048
"""Bytes of a failed container's last log lines that the status keeps."""
