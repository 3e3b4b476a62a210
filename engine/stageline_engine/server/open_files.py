"""Files that the API server may have open: one for each connection, and its own."""

from __future__ import annotations

import resource
from collections.abc import Callable

from stageline_engine.server.limits import MAX_OPEN_REQUESTS

OWN_FILES = 128
"""More than enough for standard streams, the listener, and what loops, sockets to the core and threads take."""


def allow_open_files(tell: Callable[[str], None]) -> None:
    """Raise this process's limit as far as it may, and tell when that is too little for all open requests."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    wanted = MAX_OPEN_REQUESTS + OWN_FILES
    if most != resource.RLIM_INFINITY and most < wanted:
        tell(f"at most {most} files may be open (ulimit -Hn): {MAX_OPEN_REQUESTS} open requests need {wanted}")
