"""The real helm, with its configuration in a folder of its own."""

from __future__ import annotations

import subprocess
from pathlib import Path

CHART = Path(__file__).parents[3] / "charts" / "stageline"


class HelmError(Exception):
    """helm ended with an error; the text is what it said."""


class Helm:
    """Runs helm; against a cluster where a kubeconfig is given."""

    def __init__(self, executable: Path, folder: Path, kubeconfig: Path | None = None) -> None:
        self._executable = executable
        self._environment = {
            "PATH": "/usr/bin:/bin",
            "HOME": str(folder),
            # Without a cluster no call may reach one by accident.
            "KUBECONFIG": str(kubeconfig or folder / "no-cluster"),
        }

    def __call__(self, *arguments: str) -> str:
        """Standard output of ``helm ARGUMENTS``."""
        done = subprocess.run(
            [str(self._executable), *arguments],
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        if done.returncode != 0:
            raise HelmError(done.stderr + done.stdout)
        return done.stdout
