"""How large the operator gets, and how fast it is, with many resources on a real control plane and fake kubelets.

    PYTHONPATH=tests:operator python tests/bench/operator_scale.py --resources 10 100 500

Prints for each size: time from the first apply until all are Ready, peak memory (VmHWM) of the operator from its start
on, time of a fresh start until everything has been looked at once, and the delay between the failure of a pod and the
operator's first write for it.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from support import specs
from support.kube.behaviour import Behaviour
from support.kube.control_plane import ControlPlane
from support.kube.fake_node import NodeShape
from support.kube.fake_nodes import FakeNodes
from support.kube.waiting import wait_until
from support.running.operator_process import OperatorProcess
from support.running.scene import Scene, demo

STAGES = 7
"""With the head 8 pods for each resource."""
PODS_PER_NODE = 500
FAILURES = 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--resources", type=int, nargs="+", default=[10, 100])
    sizes = parser.parse_args().resources
    print("resources  pods  ready s  VmHWM MiB  restart s  VmHWM MiB  failure→write ms p50  p99")
    with ControlPlane() as plane, FakeNodes(plane) as nodes:
        specs.install_crd(plane.api)
        for index in range(-(-max(sizes) * (1 + STAGES) // PODS_PER_NODE)):
            nodes.add_node(f"node-{index}", NodeShape(cpu="10000", memory="10Ti", pods=PODS_PER_NODE))
        for size in sizes:
            with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
                print(
                    *measure(Scene(plane, plane.create_namespace(), Path(folder), stack), nodes, size),
                    sep="  ",
                    flush=True,
                )


def measure(scene: Scene, nodes: FakeNodes, size: int) -> list[str]:
    operator = scene.operator("--log-level=info")
    with operator:
        operator.wait_leading(patience=300)
        begin = time.monotonic()
        for number in range(size):
            scene.apply(demo(f"demo-{number}", pipeline={"stages": STAGES}))
        wait_until(lambda: num_ready(scene) == size, "all to be ready", 1800, 1.0)
        ready = time.monotonic() - begin
        peak = peak_mib(operator)
    with operator:
        begin = time.monotonic()
        wait_until(lambda: looks(operator) >= size, "all to be looked at", 600, 0.1)
        restart = time.monotonic() - begin
        delays = sorted(failure_delays(scene, nodes, min(size, FAILURES)))
        figures = [
            f"{size}",
            f"{size * (1 + STAGES)}",
            f"{ready:.1f}",
            f"{peak:.0f}",
            f"{restart:.1f}",
            f"{peak_mib(operator):.0f}",
            f"{1000 * delays[len(delays) // 2]:.0f}",
            f"{1000 * delays[int(len(delays) * 0.99)]:.0f}",
        ]
    scene.api.delete("namespaces", scene.namespace)
    return figures


def num_ready(scene: Scene) -> int:
    found = scene.api.list("inferencedeployments", scene.namespace)
    return sum(each.get("status", {}).get("phase") == "Ready" for each in found)


def looks(operator: OperatorProcess) -> float:
    return operator.metric("stageline_operator_reconcile_seconds_count")


def peak_mib(operator: OperatorProcess) -> float:
    for line in Path(f"/proc/{operator.pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    raise AssertionError("no VmHWM")


def failure_delays(scene: Scene, nodes: FakeNodes, count: int) -> list[float]:
    """Seconds from the kubelet's word that a pod's container ended until the operator has written for it."""
    delays = []
    for number in range(count):
        name = f"demo-{number}"
        before = scene.resource(name)["metadata"]["resourceVersion"]
        nodes.end_containers(scene.namespace, f"{name}-0-s0-0", Behaviour(exit_code=1))
        begin = time.monotonic()
        while scene.resource(name)["metadata"]["resourceVersion"] == before:
            time.sleep(0.002)
        delays.append(time.monotonic() - begin)
    return delays


if __name__ == "__main__":
    main()
