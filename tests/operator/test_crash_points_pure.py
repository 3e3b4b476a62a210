"""An operator that dies before or after any of its writes is followed by one that comes to the same objects.

Six workloads, each done once undisturbed, then once for each write with a crash at it. The same is done against a real
API server in check_crash_points.py; here it takes milliseconds, so every write of every pass is tried.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest

from support.operator.shape import shape_of
from support.operator.simulation import Simulation, resource


def _create(simulation: Simulation) -> None:
    simulation.is_dirty = True


def _scale_up(simulation: Simulation) -> None:
    simulation.change(replicas=4)


def _scale_down(simulation: Simulation) -> None:
    simulation.change(replicas=1)


def _update(simulation: Simulation) -> None:
    simulation.change(image="example/stageline:2")


def _change_stages(simulation: Simulation) -> None:
    simulation.change(pipeline={"stages": 3})


def _delete(simulation: Simulation) -> None:
    simulation.body["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    simulation.is_dirty = True


WORKLOADS: dict[str, Callable[[Simulation], None]] = {
    "create": _create,
    "scale up": _scale_up,
    "scale down": _scale_down,
    "rolling update": _update,
    "change of stages": _change_stages,
    "delete": _delete,
}


def _before(workload: str) -> Simulation:
    simulation = Simulation(resource(replicas=1 if workload == "change of stages" else 2))
    if workload != "create":
        simulation.settle()
    return simulation


def _run(simulation: Simulation, workload: str, crash_at: int | None = None) -> int:
    """Do the workload; the operator dies when it has done ``crash_at`` actions. Returns how many it did in all."""
    WORKLOADS[workload](simulation)
    done = 0
    for _ in range(500):
        if simulation.is_due:
            left = None if crash_at is None or crash_at < done else crash_at - done
            done += len(simulation.reconcile(crash_after=left).actions)
        elif not simulation.advance():
            break
    simulation.settle()
    return done


@pytest.mark.parametrize("workload", WORKLOADS)
def test_crash_at_any_write_leads_to_the_same_objects_and_then_to_no_write(workload: str) -> None:
    before = _before(workload)
    undisturbed = copy.deepcopy(before)
    total = _run(undisturbed, workload)
    assert total >= 3
    for crash_at in range(total + 1):
        simulation = copy.deepcopy(before)
        _run(simulation, workload, crash_at)
        assert shape_of(simulation) == shape_of(undisturbed), f"crash after {crash_at} actions"
        simulation.now += 1_000
        assert simulation.decide().actions == (), f"crash after {crash_at} actions"


def test_shape_tells_objects_apart() -> None:
    """The comparison above sees a difference where there is one."""
    one, two = Simulation(resource()), Simulation(resource(image="example/stageline:2"))
    one.settle()
    two.settle()
    assert shape_of(one) != shape_of(two)
    three = copy.deepcopy(one)
    three.pods.popitem()
    assert shape_of(one) != shape_of(three)
