"""Affinity of pods: core/v1's types with bounds."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from stageline_operator.api.base import ApiModel, Rule
from stageline_operator.api.values import DeepLabelKey, DeepLabelValue, LabelKey

SelectorValues = Annotated[tuple[DeepLabelValue, ...], Field(max_length=16)]
Weight = Annotated[int, Field(ge=1, le=100)]
_VALUES = "affinity: give values to operators In and NotIn, and none to Exists and DoesNotExist"


class NodeRequirement(ApiModel):
    """A condition on a node's label."""

    key: DeepLabelKey
    """Key of the label."""
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"]
    """How the label is compared with the values."""
    values: SelectorValues = ()
    """Values; none for Exists and DoesNotExist, one for Gt and Lt."""

    rules = (
        Rule(
            "self.operator in ['Gt', 'Lt'] || (self.operator in ['In', 'NotIn']) == (has(self.values)"
            " && self.values.size() > 0)",
            _VALUES,
            lambda term: term.operator in ("Gt", "Lt") or (term.operator in ("In", "NotIn")) == bool(term.values),
        ),
        Rule(
            "!(self.operator in ['Gt', 'Lt']) || (has(self.values) && self.values.size() == 1"
            " && self.values[0].matches('^[0-9]+$'))",
            "affinity: operators Gt and Lt compare with one whole number; write values: ['8']",
            lambda term: term.operator not in ("Gt", "Lt") or (len(term.values) == 1 and term.values[0].isdecimal()),
        ),
    )


class NodeTerm(ApiModel):
    """Conditions that a node must meet all."""

    match_expressions: Annotated[tuple[NodeRequirement, ...], Field(max_length=8)] = ()
    """Conditions on labels."""


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

    key: DeepLabelKey
    """Key of the label."""
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    """How the label is compared with the values."""
    values: SelectorValues = ()
    """Values; none for Exists and DoesNotExist."""

    rules = (
        Rule(
            "(self.operator in ['In', 'NotIn']) == (has(self.values) && self.values.size() > 0)",
            _VALUES,
            lambda term: (term.operator in ("In", "NotIn")) == bool(term.values),
        ),
    )


class LabelSelector(ApiModel):
    """Which pods."""

    match_labels: dict[LabelKey, DeepLabelValue] = Field(default_factory=dict, max_length=16)
    """Labels that a pod must have."""
    match_expressions: Annotated[tuple[LabelRequirement, ...], Field(max_length=8)] = ()
    """Conditions that a pod must meet all."""


class PodTerm(ApiModel):
    """Pods near which, or far from which, to be placed."""

    label_selector: LabelSelector | None = None
    """Which pods. Default: none."""
    topology_key: DeepLabelKey
    """Node label whose equal value means near."""


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
