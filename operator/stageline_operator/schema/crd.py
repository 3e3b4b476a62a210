"""The CustomResourceDefinition, made from the API's types."""

from __future__ import annotations

from typing import Any

import yaml

from stageline_operator.api.constants import GROUP, KIND, PLURAL, SHORT_NAME, SINGULAR, VERSION
from stageline_operator.api.root_rules import ROOT_RULES
from stageline_operator.api.spec import InferenceDeploymentSpec
from stageline_operator.api.status import InferenceDeploymentStatus
from stageline_operator.api.values import VALIDATIONS
from stageline_operator.schema.structural import structural

HEADER = "# Made by `stageline-operator crd` from the operator's types; never edit it.\n"

COLUMNS = (
    ("Ready", "string", ".status.ready", "Ready and wanted pipeline replicas.", 0),
    ("Stages", "integer", ".status.plan.stages", "Pipeline stages.", 0),
    ("TP", "string", ".status.plan.tensorParallel", "Tensor-parallel ranks of each stage.", 0),
    ("Model", "string", ".status.plan.model", "The model's source.", 0),
    ("Phase", "string", ".status.phase", "The resource in one word.", 0),
    ("Age", "date", ".metadata.creationTimestamp", "Since when it exists.", 0),
    ("Reason", "string", ".status.reason", "Why it is in this phase.", 1),
)


def custom_resource_definition() -> dict[str, Any]:
    """The whole object, without anything that a server fills in."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        # A chart's uninstall would delete the CRD, and with it every resource and its pods.
        "metadata": {"name": f"{PLURAL}.{GROUP}", "annotations": {"helm.sh/resource-policy": "keep"}},
        "spec": {
            "group": GROUP,
            "names": {
                "kind": KIND,
                "listKind": f"{KIND}List",
                "plural": PLURAL,
                "singular": SINGULAR,
                "shortNames": [SHORT_NAME],
                "categories": ["all"],
            },
            "scope": "Namespaced",
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": _root()},
                    "subresources": {
                        "status": {},
                        "scale": {
                            "specReplicasPath": ".spec.replicas",
                            "statusReplicasPath": ".status.replicas",
                            "labelSelectorPath": ".status.selector",
                        },
                    },
                    "additionalPrinterColumns": [
                        {"name": name, "type": kind, "jsonPath": path, "description": text, "priority": priority}
                        for name, kind, path, text, priority in COLUMNS
                    ],
                }
            ],
        },
    }


def crd_yaml() -> str:
    """The CRD as the files have it."""
    return HEADER + yaml.safe_dump(custom_resource_definition(), sort_keys=False, width=160, allow_unicode=True)


def _root() -> dict[str, Any]:
    return {
        "type": "object",
        "description": "A language model served through a pipeline of stages: one or more replicas of a pipeline, each"
        " a head pod and one pod for each stage.",
        "properties": {
            "apiVersion": {"type": "string", "maxLength": 253},
            "kind": {"type": "string", "maxLength": 253},
            "metadata": {"type": "object"},
            "spec": structural(InferenceDeploymentSpec),
            "status": structural(InferenceDeploymentStatus),
        },
        "required": ["spec"],
        VALIDATIONS: [{"rule": rule.cel, "message": rule.message} for rule in ROOT_RULES],
    }
