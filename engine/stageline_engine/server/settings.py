"""What the API server is told at start; a frozen part of the configuration, built at the edge."""

from __future__ import annotations

from pathlib import Path

import msgspec

from stageline_engine.core.errors import ConfigurationError
from stageline_engine.server import limits


class ServerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of one API server."""

    served_model_name: str
    """Name that clients give as ``model``."""
    api_keys: tuple[str, ...] = ()
    """Keys that are let in; empty: everybody is."""
    metrics_compat: str | None = None
    """``vllm`` also exports the metrics under vLLM's names."""
    otlp_traces_endpoint: str | None = None
    """URL of a collector that gets a trace of each request; None: nobody does."""
    max_body_bytes: int = limits.MAX_BODY_BYTES
    """Bytes of a request body."""
    keep_alive_seconds: float = limits.KEEP_ALIVE_SECONDS
    """Seconds of silence after which a stream sends a comment."""


def load_api_keys(path: str | Path) -> tuple[str, ...]:
    """Keys of a file: one on each line; empty lines and lines that begin with ``#`` do not count.

    Raises:
        ConfigurationError: the file cannot be read or holds no key; keys are never shown.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError("--api-key-file", str(path), f"the file cannot be read ({error})") from error
    keys = tuple(line.strip() for line in lines if line.strip() and not line.strip().startswith("#"))
    if not keys:
        raise ConfigurationError("--api-key-file", str(path), "write at least one key into it, one on each line")
    return keys
