"""Rules about the name of a resource: those that an API server checks at the root, where it knows the name."""

from __future__ import annotations

import re
from dataclasses import dataclass

from stageline_operator.api.base import Rule
from stageline_operator.api.constants import MAX_NAME
from stageline_operator.api.spec import InferenceDeploymentSpec

PEERS_SUFFIX = "-peers"
"""What the name of the peer Service adds to the resource's name."""


@dataclass(frozen=True, slots=True)
class Named:
    """What the rules are about: a name, and a spec that holds for itself."""

    name: str
    wanted: InferenceDeploymentSpec


ROOT_RULES = (
    Rule(
        f"self.metadata.name.size() <= {MAX_NAME}",
        f"metadata.name has more than {MAX_NAME} characters, and names of pods are made from it; shorten it",
        lambda root: len(root.name) <= MAX_NAME,
    ),
    Rule(
        "self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
        "metadata.name: names of Services are made from it; use lower-case letters, digits and dashes, beginning with a"
        " letter",
        lambda root: re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", root.name) is not None,
    ),
    Rule(
        "!has(self.spec.network.serviceName)"
        f" || self.spec.network.serviceName != self.metadata.name + '{PEERS_SUFFIX}'",
        "spec.network.serviceName is the name of the Service through which stages find their head; take another name",
        lambda root: root.wanted.network.service_name != root.name + PEERS_SUFFIX,
    ),
)
