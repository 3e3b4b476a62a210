"""Environment variables of the engine's container."""

from __future__ import annotations

from typing import Annotated

from stageline_operator.api.base import ApiModel, Rule
from stageline_operator.api.refs import OptionalKeyRef
from stageline_operator.api.reserved import RESERVED_ENV, RESERVED_ENV_PREFIXES
from stageline_operator.api.values import QUALIFIED, SUBDOMAIN, Text

EnvName = Annotated[
    str, Text(128, 1, r"[A-Za-z_][A-Za-z0-9_]*", "use letters, digits and '_', not beginning with a digit")
]
FieldPath = Annotated[
    str,
    Text(
        400,
        1,
        r"metadata[.](name|namespace|uid)|spec[.](nodeName|serviceAccountName)|status[.](hostIPs?|podIPs?)"
        rf"|metadata[.](labels|annotations)\['({SUBDOMAIN.pattern}/)?{QUALIFIED}'\]",
        "write metadata.name, metadata.namespace, metadata.uid, metadata.labels['KEY'], metadata.annotations['KEY'],"
        " spec.nodeName, spec.serviceAccountName, status.hostIP, status.hostIPs, status.podIP or status.podIPs",
        is_rule=False,
    ),
]
"""What Kubernetes can put into a variable. A plain pattern: variables lie too deep for a CEL rule of this length."""


class FieldRef(ApiModel):
    """A field of the pod itself."""

    field_path: FieldPath
    """Path of the field, e.g. `status.hostIP`."""


class EnvSource(ApiModel):
    """Where the value of an environment variable comes from; exactly one of the three."""

    secret_key_ref: OptionalKeyRef | None = None
    """A key of a Secret."""
    config_map_key_ref: OptionalKeyRef | None = None
    """A key of a ConfigMap."""
    field_ref: FieldRef | None = None
    """A field of the pod."""

    rules = (
        Rule(
            "[has(self.secretKeyRef), has(self.configMapKeyRef), has(self.fieldRef)].filter(x, x).size() == 1",
            "valueFrom: give exactly one of secretKeyRef, configMapKeyRef and fieldRef",
            lambda source: [source.secret_key_ref, source.config_map_key_ref, source.field_ref].count(None) == 2,
        ),
    )


class EnvVar(ApiModel):
    """An environment variable of the engine's container."""

    name: EnvName
    """Name. Those that the operator sets itself are refused."""
    value: Annotated[str, Text(4096)] | None = None
    """Value; or give `valueFrom`."""
    value_from: EnvSource | None = None
    """Where the value comes from; or give `value`."""

    rules = (
        Rule(
            "has(self.value) != has(self.valueFrom)",
            "env: give each variable either value or valueFrom",
            lambda var: (var.value is None) != (var.value_from is None),
        ),
        Rule(
            f"!(self.name in {list(RESERVED_ENV)})"
            + "".join(f" && !self.name.startsWith('{prefix}')" for prefix in RESERVED_ENV_PREFIXES),
            f"env: the operator sets {', '.join(RESERVED_ENV)} and all that begin with"
            f" {' or '.join(RESERVED_ENV_PREFIXES)}; take another name",
            lambda var: var.name not in RESERVED_ENV and not var.name.startswith(RESERVED_ENV_PREFIXES),
        ),
    )
