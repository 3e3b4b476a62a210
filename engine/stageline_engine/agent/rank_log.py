"""The last lines that a child process wrote to its standard output and error, kept for the day it dies."""

from __future__ import annotations

import logging
import os
from collections import deque
from contextlib import suppress

from stageline_engine.core import log_relay

_log = logging.getLogger(__name__)
TAIL_LINES = 100
MAX_LINE_BYTES = 4096
"""Longer lines are cut into several."""
MAX_RECORD_BYTES = 64 * 1024
"""The same for a record, which may have a traceback."""
_READ_BYTES = 64 * 1024


class RankLog:
    """Reads one child's pipe. Records are passed on to our own log, and other lines go there at debug level.

    Args:
        fields: what lines that are no records say of their writer.
    """

    def __init__(self, name: str, **fields: int) -> None:
        self._name = name
        self._fields = fields
        self._descriptor, self._write_end = os.pipe()
        os.set_blocking(self._descriptor, False)
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._partial = b""

    def fileno(self) -> int:
        """Readable when the rank wrote something, or ended."""
        return self._descriptor

    @property
    def write_end(self) -> int:
        """To be given to the rank, then closed here with :meth:`release_write_end`."""
        return self._write_end

    def release_write_end(self) -> None:
        """Only the rank holds the write end afterwards."""
        os.close(self._write_end)

    def read(self) -> bool:
        """Take what there is without waiting; False when the rank has ended and everything was read."""
        while True:
            try:
                data = os.read(self._descriptor, _READ_BYTES)
            except BlockingIOError:
                return True
            if not data:
                self._add_line(self._partial)
                self._partial = b""
                return False
            *lines, self._partial = (self._partial + data).split(b"\n")
            for line in lines:
                self._add_line(line)
            most = MAX_RECORD_BYTES if self._partial.startswith(b"{") else MAX_LINE_BYTES
            while len(self._partial) > most:
                self._add_line(self._partial[:most])
                self._partial = self._partial[most:]

    def tail(self) -> str:
        """The last lines."""
        return "\n".join(self._tail)

    def close(self) -> None:
        """May be called twice."""
        with suppress(OSError):
            os.close(self._descriptor)
        self._descriptor = -1

    def _add_line(self, line: bytes) -> None:
        if (record := log_relay.record_of(line)) is not None:
            self._tail.extend(log_relay.as_text(record).split("\n"))
            log_relay.write(record)
            return
        for start in range(0, len(line), MAX_LINE_BYTES):
            text = line[start : start + MAX_LINE_BYTES].decode("utf-8", "replace").rstrip("\r")
            self._tail.append(text)
            _log.debug("%s: %s", self._name, text, extra=self._fields)
