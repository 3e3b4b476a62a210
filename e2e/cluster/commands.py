"""Runs commands that are over soon."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping


class CommandError(RuntimeError):
    """A command failed; the text holds the command and the end of what it said."""


def run(*command: str, environment: Mapping[str, str] | None = None, text: str | None = None) -> str:
    """Standard output of ``command``, which reads ``text``; ``environment`` is added to this process's own."""
    done = subprocess.run(
        command, env={**os.environ, **(environment or {})}, input=text, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-20:])
        raise CommandError(f"`{' '.join(command)}` ended with {done.returncode}:\n{tail}")
    return done.stdout
