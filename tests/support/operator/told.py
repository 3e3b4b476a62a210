"""What the status of a simulated resource tells."""

from __future__ import annotations

from typing import Any

from support.operator.simulation import Simulation


def status_of(simulation: Simulation) -> dict[str, Any]:
    """All of it."""
    found: dict[str, Any] = simulation.body["status"]
    return found


def conditions_of(simulation: Simulation) -> dict[str, tuple[str, str]]:
    """Status and reason of the conditions that speak of the newest spec, by type."""
    return {
        each["type"]: (each["status"], each["reason"])
        for each in status_of(simulation)["conditions"]
        if each["observedGeneration"] == simulation.body["metadata"]["generation"]
    }


def replica_of(simulation: Simulation, number: int = 0) -> dict[str, Any]:
    """The entry of one replica."""
    found: dict[str, Any] = next(each for each in status_of(simulation)["replicaList"] if each["replica"] == number)
    return found


def used_of(simulation: Simulation, number: int = 0) -> dict[str, int]:
    """How much of a replica's budget is used, by cause."""
    return {each["cause"]: each["used"] for each in replica_of(simulation, number)["restarts"]}
