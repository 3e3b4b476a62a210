"""`stageline-operator render`: the objects that a resource stands for, without a cluster."""

from __future__ import annotations

from pathlib import Path

import yaml

from stageline_operator.cli.files import NOTHING, ClusterFlags, read_resources
from stageline_operator.decide.actions import Apply, Create, CreateGroupSecret
from stageline_operator.decide.observed import Observed
from stageline_operator.decide.reconcile import decide
from stageline_operator.objects.metadata import Body
from stageline_operator.objects.secret import group_secret
from stageline_operator.plan.build import build_plan
from stageline_operator.plan.cluster import Cluster
from stageline_operator.plan.spec import read_spec


def render_command(file: Path, /, *, namespace: str = "default", cluster: ClusterFlags = NOTHING) -> None:
    """Print all objects that the operator makes of the resources in a file, in the order in which it makes them.

    Parameters
    ----------
    file
        YAML file with InferenceDeployments; - reads stdin.
    namespace
        Namespace of resources that name none.
    cluster
        What the cluster has; by default nothing beyond Kubernetes itself.
    """
    for body in read_resources(file, namespace):
        print(yaml.safe_dump_all(render(body, cluster), sort_keys=False, explicit_start=True, width=120), end="")


def render(body: Body, cluster: Cluster) -> list[Body]:
    """The objects of a resource; the group Secret without its keys, which are made at random.

    Raises:
        SpecError: the resource is wrong.
    """
    spec = read_spec(body)
    objects: list[Body] = []
    for action in decide(spec, build_plan(spec, {}), Observed(cluster), now=0.0).actions:
        if isinstance(action, Create | Apply):
            objects.append(action.body)
        elif isinstance(action, CreateGroupSecret):
            objects.append(_without_keys(group_secret(spec.owner, bytes)))
    return objects


def _without_keys(secret: Body) -> Body:
    return {**secret, "data": dict.fromkeys(secret["data"], "")}
