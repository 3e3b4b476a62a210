"""The engine's arguments from a spec: the only place that writes its flags. tests/contract feeds them to its parser."""

from __future__ import annotations

from typing import Final

from stageline_operator.api.engine import Engine
from stageline_operator.api.model import Model
from stageline_operator.api.spec import InferenceDeploymentSpec
from stageline_operator.plan.stages import layer_split, tensor_parallel

MODEL_MOUNT: Final = "/model"
"""Where pods see the claim of a ``pvc://`` source."""
API_KEYS_FILE: Final = "/etc/stageline/api-keys/keys"
"""Where the head sees the API keys."""


def model_argument(model: Model) -> str:
    """The model as the engine takes it: a path in the pod, ``hf://org/name@revision`` or ``pip://package``."""
    scheme, _, rest = model.source.partition("://")
    if scheme == "pvc":
        path = rest.partition("/")[2]
        return f"{MODEL_MOUNT}/{path}".rstrip("/")
    if scheme == "file":
        return rest
    return f"{model.source}@{model.revision}" if model.revision else model.source


def served_name(model: Model) -> str:
    """Name that clients use."""
    if model.served_name:
        return model.served_name
    rest = model.source.partition("://")[2].partition("@")[0]
    return rest.rstrip("/").rpartition("/")[2]


def engine_arguments(wanted: InferenceDeploymentSpec) -> tuple[str, ...]:
    """Arguments of ``stageline serve``, the model first; without ``--host`` and ``--port``, which are the head's
    own."""
    split, ranks = layer_split(wanted.pipeline), tensor_parallel(wanted.pipeline)
    arguments = [
        model_argument(wanted.model),
        f"--served-model-name={served_name(wanted.model)}",
        f"--stages={len(ranks)}",
        f"--tp={','.join(map(str, ranks if len(set(ranks)) > 1 else ranks[:1]))}",
    ]
    if split:
        arguments.append(f"--layer-split={','.join(map(str, split))}")
    arguments += _engine(wanted.engine)
    if wanted.monitoring.metrics_compat != "none":
        arguments.append(f"--metrics-compat={wanted.monitoring.metrics_compat}")
    if wanted.monitoring.otlp_traces_endpoint is not None:
        arguments.append(f"--otlp-traces-endpoint={wanted.monitoring.otlp_traces_endpoint}")
    if wanted.network.api_keys is not None:
        arguments.append(f"--api-key-file={API_KEYS_FILE}")
    return tuple(arguments)


def _engine(engine: Engine) -> list[str]:
    arguments = []
    for name, value in engine:
        flag = "--" + name.replace("_", "-")
        if name == "enable_prefix_caching":
            arguments += [] if value else ["--no-enable-prefix-caching"]
        elif isinstance(value, bool):
            arguments += [flag] if value else []
        elif value is not None:
            arguments.append(f"{flag}={value}")
    return arguments
