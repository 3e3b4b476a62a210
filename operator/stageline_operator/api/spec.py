"""The whole of ``spec``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from stageline_operator.api.base import ApiModel
from stageline_operator.api.constants import MAX_REPLICAS
from stageline_operator.api.engine import Engine
from stageline_operator.api.model import Model
from stageline_operator.api.monitoring import Monitoring
from stageline_operator.api.network import Network
from stageline_operator.api.pipeline import Pipeline
from stageline_operator.api.pod_settings import Head
from stageline_operator.api.pod_template import PodTemplate
from stageline_operator.api.restart import Restart
from stageline_operator.api.rollout import Rollout
from stageline_operator.api.scheduling import Scheduling
from stageline_operator.api.spec_rules import SPEC_RULES
from stageline_operator.api.values import Text

Image = Annotated[
    str,
    Text(
        512,
        1,
        r"[a-zA-Z0-9][-_.a-zA-Z0-9]*(:[0-9]+)?(/[a-z0-9][-_.a-z0-9]*)*(:[A-Za-z0-9_][-.A-Za-z0-9_]*)?(@sha256:[0-9a-f]{64})?",
        "write an image as [REGISTRY/]NAME[:TAG][@sha256:DIGEST]",
    ),
]


class InferenceDeploymentSpec(ApiModel):
    """What a person asks for: a model, how it is cut into pipeline stages, how many replicas of the pipeline."""

    model: Model
    """Which model is served, where it comes from, and what clients call it."""
    image: Image
    """Container image of the engine, for heads and stages. A digest pins it."""
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    """When the kubelet pulls the image."""
    replicas: Annotated[int, Field(ge=0, le=MAX_REPLICAS)] = 1
    """Independent copies of the whole pipeline. Also set by `kubectl scale` and by autoscalers."""
    pipeline: Pipeline
    """How the model is cut into stages, and what each stage needs."""
    head: Head = Head()
    """The head pod of each replica."""
    engine: Engine = Engine()
    """Limits and settings of the engine."""
    rollout: Rollout = Rollout()
    """How a change reaches the replicas."""
    restart: Restart = Restart()
    """What happens when pods end."""
    scheduling: Scheduling = Scheduling()
    """Where the pods of a replica are placed, and that they are placed together or not at all."""
    network: Network = Network()
    """How clients reach the replicas."""
    monitoring: Monitoring = Monitoring()
    """How Prometheus finds the metrics."""
    pod_template: PodTemplate = PodTemplate()
    """What all pods of the pipeline get."""

    rules = SPEC_RULES
