"""Affinity of pods: core/v1's types with bounds."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from stageline_operator.api.base import ApiModel, LabelKey, LabelValue, Name

SelectorValues = Annotated[tuple[LabelValue, ...], Field(max_length=16)]
Weight = Annotated[int, Field(ge=1, le=100)]


class NodeRequirement(ApiModel):
    """A condition on a node's label."""

    key: LabelKey
    """Key of the label."""
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"]
    """How the label is compared with the values."""
    values: SelectorValues = ()
    """Values; none for Exists and DoesNotExist, one for Gt and Lt."""


class NodeTerm(ApiModel):
    """Conditions that a node must meet all."""

    match_expressions: Annotated[tuple[NodeRequirement, ...], Field(max_length=8)] = ()
    """Conditions on labels."""
    match_fields: Annotated[tuple[NodeRequirement, ...], Field(max_length=4)] = ()
    """Conditions on fields (`metadata.name`)."""


class NodeTerms(ApiModel):
    """Terms of which a node must meet one."""

    node_selector_terms: Annotated[tuple[NodeTerm, ...], Field(min_length=1, max_length=8)]
    """The terms."""


class PreferredNodeTerm(ApiModel):
    """A term that makes a node better."""

    weight: Weight
    """How much, 1 to 100."""
    preference: NodeTerm
    """The term."""


class NodeAffinity(ApiModel):
    """Which nodes."""

    required_during_scheduling_ignored_during_execution: NodeTerms | None = None
    """What a node must meet."""
    preferred_during_scheduling_ignored_during_execution: Annotated[
        tuple[PreferredNodeTerm, ...], Field(max_length=8)
    ] = ()
    """What makes a node better."""


class LabelRequirement(ApiModel):
    """A condition on a label."""

    key: LabelKey
    """Key of the label."""
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    """How the label is compared with the values."""
    values: SelectorValues = ()
    """Values; none for Exists and DoesNotExist."""


class LabelSelector(ApiModel):
    """Which pods."""

    match_labels: dict[LabelKey, LabelValue] = Field(default_factory=dict, max_length=16)
    """Labels that a pod must have."""
    match_expressions: Annotated[tuple[LabelRequirement, ...], Field(max_length=8)] = ()
    """Conditions that a pod must meet all."""


class PodTerm(ApiModel):
    """Pods near which, or far from which, to be placed."""

    label_selector: LabelSelector | None = None
    """Which pods. Default: none."""
    topology_key: LabelKey
    """Node label whose equal value means near."""
    namespaces: Annotated[tuple[Name, ...], Field(max_length=8)] = ()
    """Namespaces of the pods. Default: the resource's own."""


class PreferredPodTerm(ApiModel):
    """A term that makes a node better."""

    weight: Weight
    """How much, 1 to 100."""
    pod_affinity_term: PodTerm
    """The term."""


class PodAffinity(ApiModel):
    """Near which pods, or far from which."""

    required_during_scheduling_ignored_during_execution: Annotated[tuple[PodTerm, ...], Field(max_length=8)] = ()
    """What must hold."""
    preferred_during_scheduling_ignored_during_execution: Annotated[
        tuple[PreferredPodTerm, ...], Field(max_length=8)
    ] = ()
    """What makes a node better."""


class Affinity(ApiModel):
    """Where pods are placed, in core/v1's words."""

    node_affinity: NodeAffinity | None = None
    """Which nodes."""
    pod_affinity: PodAffinity | None = None
    """Near which pods."""
    pod_anti_affinity: PodAffinity | None = None
    """Far from which pods."""
