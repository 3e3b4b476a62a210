"""Whether a Ray cluster has room for the stages of a pipeline, and what is missing if not: arithmetic only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from stageline_engine.ray_cluster.messages import StageNeeds

Resources = Mapping[str, float]
"""Ray's names of resources, and how much of each."""


def bundle(needs: StageNeeds) -> dict[str, float]:
    """What a stage takes of one machine, in Ray's words."""
    wanted = {"CPU": float(needs.cpus), "GPU": float(needs.gpus)}
    return {name: amount for name, amount in wanted.items() if amount}


def what_is_missing(stages: Sequence[StageNeeds], nodes: Mapping[str, Resources]) -> str | None:
    """A sentence about the first stage that finds no machine, the most demanding first; None when all do.

    Args:
        stages: what each takes of one machine.
        nodes: what each machine has, by its address.
    """
    left = {address: dict(resources) for address, resources in nodes.items()}
    most = sorted(range(len(stages)), key=lambda stage: (stages[stage].gpus, stages[stage].cpus), reverse=True)
    for placed, stage in enumerate(most):
        wanted = bundle(stages[stage])
        fitting = [node for node in left.values() if all(node.get(name, 0.0) >= wanted[name] for name in wanted)]
        if not fitting:
            return (
                f"stage {stage} needs {_shown(wanted)} on one machine, and {_rest(placed)}"
                f" {len(nodes)} machine{'s' if len(nodes) != 1 else ''} of the Ray cluster"
                f" {'have' if len(nodes) != 1 else 'has'} left: {_list(left)}"
            )
        # Spread: the emptiest machine first.
        node = max(fitting, key=lambda one: (one.get("GPU", 0.0), one.get("CPU", 0.0)))
        for name in wanted:
            node[name] -= wanted[name]
    return None


def _rest(placed: int) -> str:
    return "the" if not placed else f"with {placed} other stage{'s' if placed > 1 else ''} placed the"


def _list(nodes: Mapping[str, Resources]) -> str:
    shown = [f"{address} {_shown(resources)}" for address, resources in sorted(nodes.items())]
    return "; ".join(shown) if len(shown) <= 8 else "; ".join(shown[:8]) + "; …"


def _shown(resources: Resources) -> str:
    gpus, cpus = resources.get("GPU", 0.0), resources.get("CPU", 0.0)
    return f"{gpus:g} GPU{'s' if gpus != 1 else ''} and {cpus:g} CPU{'s' if cpus != 1 else ''}"
