"""The programs of tests/bench start and measure what they say; how fast is not asked here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROGRAMS = Path(__file__).parents[1] / "bench"


def run(program: str, *arguments: str) -> str:
    done = subprocess.run([sys.executable, PROGRAMS / program, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_host_work_measures_each_part() -> None:
    shown = run("host_work.py", "--rows", "32", "--steps", "20", "--stages", "2", "--slots", "1")
    medians = {line.partition(" median ")[0].strip(): float(line.split()[-3]) for line in shown.splitlines()}
    parts = {"plan", "encode plan", "decode result", "complete", "encode outputs", "observe"}
    assert set(medians) == parts | {"sum", "bytes of a plan"}
    assert all(median > 0 for median in medians.values())


def test_the_comparison_with_transformers_starts() -> None:
    assert "--workloads" in run("vs_transformers.py", "--help")
