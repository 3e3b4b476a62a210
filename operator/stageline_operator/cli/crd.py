"""`stageline-operator crd`: the CustomResourceDefinition."""

from __future__ import annotations

from stageline_operator.schema.crd import crd_yaml


def crd_command() -> None:
    """Print the CustomResourceDefinition of InferenceDeployment, as YAML for kubectl apply."""
    print(crd_yaml(), end="")
