"""`plan --live` looks into the cluster, says what a change would do there, and changes nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from support.running.scene import Scene, demo

ROOT = Path(__file__).parents[2]


def plan(scene: Scene, body: dict[str, Any], *, is_refused: bool = False) -> str:
    file = scene.folder / "wanted.yaml"
    file.write_text(yaml.safe_dump(body))
    command = [sys.executable, "-m", "stageline_operator", "plan", str(file), "--live"]
    command += [f"--kubeconfig={scene.plane.kubeconfig}", f"--namespace={scene.namespace}"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "engine"), str(ROOT / "operator")])}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert (done.returncode != 0) == is_refused, done.stderr
    return done.stderr if is_refused else done.stdout


def test_a_plan_speaks_of_what_runs_in_the_cluster(scene: Scene) -> None:
    assert "new, revision" in plan(scene, demo())
    scene.run_operator()
    scene.apply(demo())
    scene.wait_phase("Ready")
    generation, children = scene.resource()["metadata"]["generation"], scene.children()
    assert "nothing would change" in plan(scene, demo())
    change = plan(scene, demo(image="stageline/engine:0.2.0"))
    assert 'spec.image: "stageline/engine:0.1.0" → "stageline/engine:0.2.0"' in change
    assert "+ Pod demo-1-head-0" in change and "- Pod demo-0-head-0" in change
    refusal = plan(scene, demo(scheduling={"gang": "none"}), is_refused=True)
    assert "spec.scheduling.gang is immutable" in refusal
    assert scene.resource()["metadata"]["generation"] == generation
    assert scene.children() == children
