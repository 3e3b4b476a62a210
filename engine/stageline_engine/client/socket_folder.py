"""Where the socket between a client and its engine core lies: in a private folder whose path a Unix socket can have."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import zmq

SOCKET_NAME = "core"
SHORT_FOLDER = "/tmp"
"""Where the folder is made when the system's folder for temporary files has too long a path (107 bytes on Linux)."""


def make_socket_folder() -> Path:
    """A new folder that only this user can enter; the socket is its ``SOCKET_NAME``."""
    folder = Path(tempfile.mkdtemp(prefix="stageline-"))
    if len(os.fsencode(folder / SOCKET_NAME)) <= zmq.IPC_PATH_MAX_LEN:
        return folder
    folder.rmdir()
    return Path(tempfile.mkdtemp(prefix="stageline-", dir=SHORT_FOLDER))
