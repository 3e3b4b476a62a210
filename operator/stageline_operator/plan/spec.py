"""body → Spec: the validated resource, the only form in which later steps see it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from pydantic_core import to_json

from stageline_operator.api.base import WITHOUT_RULES, ApiModel
from stageline_operator.api.errors import SpecError
from stageline_operator.api.root_rules import ROOT_RULES, Named
from stageline_operator.api.spec import InferenceDeploymentSpec
from stageline_operator.api.status import InferenceDeploymentStatus


@dataclass(frozen=True, slots=True)
class Owner:
    """Which resource: key of queues, and owner of children.

    Attributes:
        uid: "" for a file that was never in a cluster (``render``).
    """

    namespace: str
    name: str
    uid: str


@dataclass(frozen=True, slots=True)
class Spec:
    """A resource as the API server holds it, validated.

    Attributes:
        generation: goes up with each change of ``wanted``.
        deleting: it has a deletionTimestamp, so nothing may be created for it.
        wanted: what the person asks for, with defaults.
        status: what was last written; the empty status for a new resource, and for one whose status is unreadable
            (an operator of another version wrote it): everything in it can be observed anew, but for used budgets.
    """

    owner: Owner
    generation: int
    resource_version: str
    deleting: bool
    wanted: InferenceDeploymentSpec
    status: InferenceDeploymentStatus


def read_spec(body: Mapping[str, Any]) -> Spec:
    """Validate a resource's body: camelCase JSON as the API server gives it, or a person's YAML.

    Raises:
        SpecError: names the field, its value and the remedy; the first one that is wrong.
    """
    metadata = body.get("metadata") or {}
    owner = Owner(metadata.get("namespace", "default"), metadata.get("name", ""), metadata.get("uid", ""))
    wanted = read_wanted(body.get("spec") or {})
    for rule in ROOT_RULES:
        if rule.holds is not None and not rule.holds(Named(owner.name, wanted)):
            raise SpecError("metadata.name", owner.name, rule.message)
    return Spec(
        owner=owner,
        generation=metadata.get("generation", 0),
        resource_version=metadata.get("resourceVersion", ""),
        deleting=metadata.get("deletionTimestamp") is not None,
        wanted=wanted,
        status=read_status(body.get("status") or {}),
    )


def read_wanted(spec: Mapping[str, Any], *, with_rules: bool = True) -> InferenceDeploymentSpec:
    """Validate ``spec`` alone.

    Args:
        with_rules: false for a part of a spec that held as a whole, and for one of an operator that had fewer rules.

    Raises:
        SpecError: see :func:`read_spec`.
    """
    try:
        # By way of JSON: strict types take a tuple from a JSON array, but not from a Python list.
        return InferenceDeploymentSpec.model_validate_json(
            to_json(spec), context=None if with_rules else WITHOUT_RULES, by_alias=True, by_name=False
        )
    except ValidationError as error:
        raise _first_error(error) from error


def check_change(old: ApiModel, new: ApiModel, path: str = "spec") -> None:
    """Refuse what the API server would refuse of a change, though it takes either spec alone.

    Raises:
        SpecError: it changes what is immutable.
    """
    for rule in new.all_rules():
        if rule.keeps is not None and not rule.keeps(old, new):
            raise SpecError(path, ..., rule.message)
    for name, after in new:
        before = getattr(old, name)
        if isinstance(before, ApiModel) and isinstance(after, ApiModel):
            alias = type(new).model_fields[name].alias or name
            check_change(before, after, f"{path}.{alias}")


def read_status(status: Mapping[str, Any]) -> InferenceDeploymentStatus:
    """The last written status; the empty one where it cannot be read."""
    try:
        return InferenceDeploymentStatus.model_validate_json(to_json(status))
    except ValidationError:
        return InferenceDeploymentStatus()


def _first_error(error: ValidationError) -> SpecError:
    first = error.errors(include_url=False)[0]
    field = "spec"
    for part in first["loc"]:
        if part != "[key]":  # pydantic's mark that the key of a map is meant, which is in the path already
            field += f"[{part}]" if isinstance(part, int) else f".{part}"
    if first["type"] == "value_error":  # one of our rules: its message has the remedy
        return SpecError(field, ..., str(first["ctx"]["error"]))
    if first["type"] == "missing":
        return SpecError(field, ..., "required; add it")
    if first["type"] == "extra_forbidden":
        return SpecError(field, ..., "unknown field; remove it, or correct its name")
    return SpecError(field, first["input"], first["msg"][0].lower() + first["msg"][1:])
