"""`make gpu-check`, where it cannot run, and `make test`, which never runs it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def pytest_run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Where PyTorch sees no GPU, whatever this machine has."""
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments],
        cwd=ROOT,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )


def check_arguments() -> list[str]:
    """What the Makefile gives pytest."""
    found = re.search(r"^gpu-check:.*\n\t\$\(BIN\)/pytest (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert found is not None
    return found[1].replace("'", "").split()


def test_without_a_gpu_the_check_fails_with_one_line() -> None:
    ran = pytest_run(*check_arguments())
    assert ran.returncode != 0
    shown = [line for line in (ran.stdout + ran.stderr).splitlines() if line.strip()]
    assert shown == ["ERROR: gpu-check needs an NVIDIA GPU, and PyTorch sees none on this machine"]


def test_the_tests_leave_the_check_out() -> None:
    ran = pytest_run("--collect-only", "-q", "tests", "--ignore", "tests/engine")
    assert ran.returncode in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED), ran.stdout + ran.stderr
    assert "tests/gpu" not in ran.stdout
