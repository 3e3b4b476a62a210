"""What a replica's pods depend on: as content that is kept, and as a hash that names it.

The content has only what a person set: a field that a later operator adds with a default changes no hash, so an
upgrade of operator or CRD rolls nothing. It is kept in a ControllerRevision, since pods of an old revision must be
healed from their own revision, also when the spec has moved on and none of them is left to look at.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from stageline_operator.api.spec import InferenceDeploymentSpec
from stageline_operator.plan.spec import read_wanted

_WHOLE = ("model", "image", "imagePullPolicy", "pipeline", "head", "engine", "scheduling", "podTemplate")
_PARTS = (
    ("network", "apiKeys"),
    ("monitoring", "metricsCompat"),
    ("monitoring", "otlpTracesEndpoint"),
    ("restart", "nodeLostSeconds"),
)


def content_of(wanted: InferenceDeploymentSpec) -> str:
    """Canonical JSON of the part of a spec that pods depend on."""
    dumped = wanted.dump(exclude_defaults=True)
    content: dict[str, Any] = {key: dumped[key] for key in _WHOLE if key in dumped}
    for group, key in _PARTS:
        if key in dumped.get(group, {}):
            content.setdefault(group, {})[key] = dumped[group][key]
    return json.dumps(content, sort_keys=True, separators=(",", ":"))


def hash_of(content: str) -> str:
    """The revision: 10 hexadecimal characters, a label's value and part of a name."""
    return hashlib.sha256(content.encode()).hexdigest()[:10]


def restore(content: str) -> InferenceDeploymentSpec:
    """The spec that a kept content stands for; what is not in it has its default.

    Raises:
        SpecError: the content is not of this operator's version.
    """
    return read_wanted(json.loads(content), with_rules=False)


def in_force(wanted: InferenceDeploymentSpec, content: str) -> InferenceDeploymentSpec:
    """The spec as it is for pods of another revision: what they depend on is as their content says, the rest as wanted.

    Raises:
        SpecError: the content is not of this operator's version.
    """
    kept = restore(content)
    names = {field.alias or name: name for name, field in type(wanted).model_fields.items()}
    changes: dict[str, Any] = {names[key]: getattr(kept, names[key]) for key in _WHOLE}
    for group, key in _PARTS:
        of_kept, of_wanted = getattr(kept, group), changes.get(group, getattr(wanted, group))
        name = next(name for name, field in type(of_kept).model_fields.items() if field.alias == key)
        changes[group] = of_wanted.model_copy(update={name: getattr(of_kept, name)})
    return wanted.model_copy(update=changes)
