"""The key that all processes of a replica are given as a file, where they are not children of one process."""

from __future__ import annotations

from pathlib import Path

import zmq
from zmq.utils import z85

from stageline_engine.comm.commands import ReplicaKeys
from stageline_engine.core.errors import ConfigurationError

KEY_FILE = "curve.key"
"""Name of the file in the folder of --keys."""
KEY_BYTES = 32
"""Its length: it is a CURVE secret key as it is, any 32 unpredictable bytes."""


def read_keys(folder: Path) -> ReplicaKeys:
    """The key pair that follows from the file: the same for everybody who has it.

    Raises:
        ConfigurationError: there is no such file, or it is not a key.
    """
    file = folder / KEY_FILE
    try:
        with file.open("rb") as opened:
            # One byte more tells that there is more.
            content = opened.read(KEY_BYTES + 1)
    except OSError as error:
        remedy = f"{error.strerror}: put {KEY_BYTES} random bytes there, the same for the head and all its stages"
        raise ConfigurationError("--keys", str(file), remedy) from error
    if len(content) != KEY_BYTES:
        length = f"more than {KEY_BYTES}" if len(content) > KEY_BYTES else f"{len(content)}"
        raise ConfigurationError("--keys", str(file), f"the file has {length} bytes; a key has exactly {KEY_BYTES}")
    secret = z85.encode(content)
    return ReplicaKeys(zmq.curve_public(secret).decode(), secret.decode())
