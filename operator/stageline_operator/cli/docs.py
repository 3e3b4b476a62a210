"""`stageline-operator docs`: the reference of InferenceDeployment."""

from __future__ import annotations

from stageline_operator.schema.reference import reference


def docs_command() -> None:
    """Print the reference of InferenceDeployment, as Markdown (docs/infdep.md)."""
    print(reference(), end="")
