"""Log lines of the engine's pods, which are JSON for machines, as a person reads them in a status."""

from __future__ import annotations

import json


def readable(log: str) -> str:
    """``log`` with each line that is such an object as ``LEVEL logger: message``; other lines stay as they are."""
    return "\n".join(_readable_line(line) for line in log.split("\n"))


def _readable_line(line: str) -> str:
    if not line.startswith("{"):
        return line
    try:
        values = json.loads(line)
    except ValueError:
        return line
    if not isinstance(values, dict) or "message" not in values:
        return line
    text = f"{values.get('level', '')} {values.get('logger', '')}: {values['message']}".lstrip()
    return f"{text}\n{values['exception']}" if values.get("exception") else text
