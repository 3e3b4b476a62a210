"""kubectl as a person types it."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Object = dict[str, Any]


class KubectlError(RuntimeError):
    """kubectl ended with an error; the text is what it said."""


class Kubectl:
    """kubectl with one kubeconfig."""

    def __init__(self, executable: Path, kubeconfig: Path) -> None:
        self.kubeconfig = kubeconfig
        self._executable = executable

    def __call__(self, *arguments: str, text: str | None = None) -> str:
        """Standard output of ``kubectl ARGUMENTS``, with ``text`` as its standard input."""
        done = subprocess.run(
            [str(self._executable), *arguments],
            env=self._environment(),
            input=text,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise KubectlError(f"kubectl {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    def list(self, kind: str, namespace: str, selector: str = "") -> list[Object]:
        """Objects of ``kind`` as the server has them."""
        answer = json.loads(self("get", kind, "-n", namespace, "-l", selector, "-o", "json"))
        items: list[Object] = answer["items"]
        return items

    @contextmanager
    def port_forward(self, namespace: str, target: str, port: int) -> Iterator[str]:
        """Inside the block ``port`` of ``target`` (like "service/demo") is reachable: its address on loopback."""
        command = [str(self._executable), "port-forward", "-n", namespace, target, f":{port}"]
        with subprocess.Popen(
            command, env=self._environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process:
            try:
                assert process.stdout is not None
                said = process.stdout.readline()
                match = re.search(r"127\.0\.0\.1:\d+", said)
                if match is None:
                    raise KubectlError(f"kubectl port-forward {target}: {said}{process.stdout.read()}")
                yield match[0]
            finally:
                process.terminate()

    def _environment(self) -> dict[str, str]:
        return {**os.environ, "KUBECONFIG": str(self.kubeconfig)}
