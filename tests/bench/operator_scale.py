"""How large the operator gets, and how fast it is, with many resources on a real control plane and fake kubelets.

    PYTHONPATH=tests:operator python tests/bench/operator_scale.py --resources 10 100 500

Each resource has one replica: a head and seven stages. Prints for each size a line of FIGURES, at the end how much
memory each further resource takes. Everything (etcd, API server, scheduler, controller manager with its default limits,
fake kubelets, operator) shares this machine's cores.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import tempfile
import threading
import time
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Self

import httpx

from support import specs
from support.kube.behaviour import Behaviour
from support.kube.control_plane import ControlPlane
from support.kube.fake_node import NodeShape
from support.kube.fake_nodes import FakeNodes
from support.kube.flags import Settings
from support.kube.waiting import wait_until
from support.running.operator_process import OperatorProcess
from support.running.scene import MANAGED, Scene, demo

FIGURES = {
    "resources": "number of resources",
    "pods": "number of their pods",
    "stages/s": "stage pods created in a second, up to the thousandth: from the first apply to its creationTimestamp",
    "ready s": "from the first apply until all resources are Ready; much of it is the scheduler's and the kubelets'",
    "MiB made": "VmHWM of the operator that made them, from its start on",
    "start s": "from the start of a new operator's process until it has looked at every resource and has nothing to do",
    "start CPU s": "its CPU time for that",
    "p50 ms": "from the end of a container to the operator's first write for it, the kubelet's word included",
    "p99 ms": "the same",
    "MiB": "VmHWM of that operator, from its start on",
}
SETTINGS = Settings(node_grace_seconds=40)
"""As in a real cluster: kubelets that share two cores with everything else are late at times."""
STAGES = 7
PODS_PER_NODE = 500
THOUSAND = 1000
FAILURES = 100
FAILURES_PER_RESOURCE = 4
"""Fewer than the budget of its replica."""
SETTLED = 2.0
"""Seconds without a look."""
FAILURE_EVERY = 0.2
"""Seconds: together long enough for several of the operator's own rounds."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--resources", type=int, nargs="+", default=[10, 100])
    sizes = parser.parse_args().resources
    # As in an image: the first operator leaves its bytecode to the next, and no start is spent on compiling.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["PYTHONPYCACHEPREFIX"] = tempfile.mkdtemp(prefix="stageline-bytecode-")
    print("\n".join(f"{name}: {meaning}" for name, meaning in FIGURES.items()))
    print("", *FIGURES, sep=" | ", flush=True)
    peaks = []
    for size in sizes:
        with ControlPlane(SETTINGS) as plane, FakeNodes(plane) as nodes, ExitStack() as stack:
            specs.install_crd(plane.api)
            for index in range(-(-size * (1 + STAGES) // PODS_PER_NODE)):
                nodes.add_node(f"node-{index}", NodeShape(cpu="10000", memory="10Ti", pods=PODS_PER_NODE))
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            scene = Scene(plane, plane.create_namespace(), folder, stack)
            made = measure_making(scene, size)
            begun = measure_start(scene, nodes, size)
            print("", size, size * (1 + STAGES), *made, *begun, sep=" | ", flush=True)
            peaks.append(float(begun[-1]))
    if len(sizes) > 1:
        slope = 1024 * (peaks[-1] - peaks[0]) / (sizes[-1] - sizes[0])
        print(f"KiB for each resource and its {1 + STAGES} pods, from {sizes[0]} to {sizes[-1]}: {slope:.0f}")


def measure_making(scene: Scene, size: int) -> list[str]:
    """An operator makes everything from nothing."""
    with scene.operator("--log-level=info", fast=False) as operator:
        operator.wait_leading(patience=300)
        begin, begun_at = time.monotonic(), time.time()
        for number in range(size):
            scene.apply(demo(f"demo-{number}", pipeline={"stages": STAGES}))
        wait_until(lambda: num_ready(operator) == size, "all to be ready", 1200, 1.0)
        ready = time.monotonic() - begin
        made = sorted(created_at(pod) for pod in scene.api.list("pods", scene.namespace, f"{MANAGED},{STAGE}"))
        count = min(len(made), THOUSAND)
        return [f"{count / max(made[count - 1] + 1 - begun_at, 1):.0f}", f"{ready:.1f}", f"{peak_mib(operator):.0f}"]


STAGE = "stageline.dev/role=stage"


def created_at(pod: dict[str, dict[str, str]]) -> float:
    """Seconds since 1970, whole ones."""
    return datetime.fromisoformat(pod["metadata"]["creationTimestamp"]).timestamp()


def measure_start(scene: Scene, nodes: FakeNodes, size: int) -> list[str]:
    """Another operator finds everything there, and then containers end."""
    begin = time.monotonic()
    with scene.operator("--log-level=info", fast=False) as operator:
        start, cpu = wait_settled(operator, size) - begin, cpu_seconds(operator)
        delays = sorted(failure_delays(scene, nodes, size))
        return [
            f"{start:.1f}",
            f"{cpu:.1f}",
            f"{1000 * delays[len(delays) // 2]:.0f}",
            f"{1000 * delays[int(len(delays) * 0.99)]:.0f}",
            f"{peak_mib(operator):.0f}",
        ]


def num_ready(operator: OperatorProcess) -> int:
    """By the operator's word: lists of all resources, again and again, would keep the API server busy."""
    text = httpx.get(f"http://127.0.0.1:{operator.port}/metrics", timeout=30, trust_env=False).text
    return len(re.findall(r'^stageline_operator_resource_phase\{.*phase="Ready"', text, re.MULTILINE))


def wait_settled(operator: OperatorProcess, size: int) -> float:
    """Until every resource has been looked at and no look follows for SETTLED seconds.

    Returns:
        The time of the last look.
    """
    seen, since = 0.0, time.monotonic()

    def is_settled() -> bool:
        nonlocal seen, since
        now = time.monotonic()
        if (found := looks(operator)) != seen:
            seen, since = found, now
        return seen >= size and now - since >= SETTLED

    wait_until(is_settled, "the operator to have nothing to do", 600, 0.25)
    return since


def looks(operator: OperatorProcess) -> float:
    return operator.metric("stageline_operator_reconcile_seconds_count")


def cpu_seconds(operator: OperatorProcess) -> float:
    return operator.metric("process_cpu_seconds_total")


def peak_mib(operator: OperatorProcess) -> float:
    for line in Path(f"/proc/{operator.pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    raise AssertionError("no VmHWM")


def failure_delays(scene: Scene, nodes: FakeNodes, size: int) -> list[float]:
    """Seconds from the end of a container until the operator has written its resource's status."""
    delays = []
    with Writes(scene) as writes:
        for number in range(min(FAILURES, FAILURES_PER_RESOURCE * size)):
            stage, name = number // size % STAGES, f"demo-{number % size}"
            begin = time.monotonic()
            nodes.end_containers(scene.namespace, f"{name}-0-s{stage}-0", Behaviour(exit_code=1))
            delays.append(writes.after(name, begin) - begin)
            time.sleep(max(0.0, begin + FAILURE_EVERY - time.monotonic()))
    return delays


class Writes:
    """When each resource was last written, by a watch, which costs the API server less than asking it."""

    def __init__(self, scene: Scene) -> None:
        self._process = subprocess.Popen(
            [
                *(str(scene.plane.kubectl), f"--kubeconfig={scene.plane.kubeconfig}", f"--namespace={scene.namespace}"),
                *("get", "infdep", "--watch", "--no-headers", "--output=custom-columns=N:.metadata.name"),
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        self._last: dict[str, float] = {}
        self._news = threading.Condition()
        self._thread = threading.Thread(target=self._read, name="writes", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        with self._news:
            assert self._news.wait_for(lambda: self._last, 60), "kubectl shows no resource"
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()
        self._thread.join()

    def after(self, name: str, begin: float) -> float:
        """When ``name`` was first written after ``begin``; waits for it."""
        with self._news:
            assert self._news.wait_for(lambda: self._last[name] > begin, 60), f"{name} was not written"
            return self._last[name]

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._news:
                self._last[line.strip()] = time.monotonic()
                self._news.notify_all()


if __name__ == "__main__":
    main()
