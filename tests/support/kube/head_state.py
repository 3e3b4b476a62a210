"""What a healthy head answers at ``GET /state``, made from its own arguments and the pods of its stages.

The real engine decides settings and says what it decided; this one says what it was asked, which is the same as long as
nothing was left to it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from stageline_operator.api.constants import LABEL_NAME, LABEL_REPLICA, LABEL_STAGE
from support.kube.behaviour import Pod
from support.kube.pod_status import is_ready

Setting = str | int | float | bool


def healthy_state(head: Pod, neighbours: Iterable[Pod], epoch: int = 1) -> dict[str, Any]:
    """The state of ``head``, whose stages are among ``neighbours``: members of the epoch as soon as they are Ready."""
    settings = arguments_as_settings(head["spec"]["containers"][0].get("args", []))
    num_stages, ranks = int(settings.get("stages", 1)), str(settings.get("tp", 1)).split(",")
    members = {_label(pod, LABEL_STAGE): pod for pod in neighbours if _is_stage_of(pod, head) and is_ready(pod)}
    stages = [
        {
            "stage": stage,
            "pod": members[str(stage)]["metadata"]["name"] if str(stage) in members else "",
            "state": "member" if str(stage) in members else "absent",
            "layers": None,
            "tensor_parallel": int(ranks[stage] if len(ranks) > 1 else ranks[0]),
        }
        for stage in range(num_stages)
    ]
    is_whole = len(members) == num_stages
    return {
        "epoch": epoch if is_whole else 0,
        "ready": is_whole,
        "draining": False,
        "stages": stages,
        "settings": settings,
    }


def arguments_as_settings(arguments: Iterable[str]) -> dict[str, Setting]:
    """``--max-num-seqs=8`` becomes ``max_num_seqs: 8``; flags without a value are true, ``--no-…`` ones false."""
    settings: dict[str, Setting] = {}
    for argument in arguments:
        name, has_value, value = argument.partition("=")
        if not name.startswith("--"):
            continue
        key = name.removeprefix("--").replace("-", "_")
        if has_value:
            settings[key] = _number(value)
        elif key.startswith("no_"):
            settings[key.removeprefix("no_")] = False
        else:
            settings[key] = True
    return settings


def _number(text: str) -> Setting:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _is_stage_of(pod: Pod, head: Pod) -> bool:
    shared = (LABEL_NAME, LABEL_REPLICA)
    return bool(_label(pod, LABEL_STAGE)) and all(_label(pod, each) == _label(head, each) for each in shared)


def _label(pod: Pod, name: str) -> str:
    value: str = pod["metadata"].get("labels", {}).get(name, "")
    return value
