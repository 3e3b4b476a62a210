"""What befalls the pods of a simulated resource named demo."""

from __future__ import annotations

from support.operator import pods as pod_states
from support.operator.simulation import Simulation

HEAD, STAGE = "demo-0-head-0", "demo-0-s1-0"


def evict(simulation: Simulation, name: str) -> None:
    """Its node ends it."""
    simulation.set_pod(pod_states.failed(simulation.pods[name], simulation.now, "Evicted"))


def crash(simulation: Simulation, name: str, exit_code: int = 1, reason: str = "Error", log: str = "") -> None:
    """Its container ends and is started again by the kubelet; no token goes through the replica meanwhile."""
    pod = simulation.pods[name]
    simulation.set_pod(pod_states.restarted(pod, exit_code, simulation.now, reason, log))
    simulation.set_pod(pod_states.made_ready(simulation.pods[HEAD], False, simulation.now))
