"""Finding a model on this machine, in a thread: it may last long, and the node's loop has to move."""

from __future__ import annotations

import os
import threading
from queue import Empty, SimpleQueue

from stageline_engine.core.deployment import StageSpec
from stageline_engine.core.errors import ConfigurationError
from stageline_engine.sources.folder import ModelFolder
from stageline_engine.sources.resolve import resolve

News = str | ModelFolder | ConfigurationError
"""A line of progress, or how it ended."""


class Resolving:
    """For the ranks of one stage. Begins at once. What it started ends with this process, or when it is done."""

    def __init__(self, model: str, stage: StageSpec) -> None:
        self._model = model
        self._stage = stage
        self._news: SimpleQueue[News | Exception] = SimpleQueue()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._lock = threading.Lock()
        self._is_closed = False
        # A daemon: nothing is waited for when the node ends.
        threading.Thread(target=self._run, name="resolve", daemon=True).start()

    def fileno(self) -> int:
        """Readable when :meth:`poll` has something."""
        return self._wake

    def poll(self) -> list[News]:
        """What became of it since the last call, without waiting."""
        news: list[News] = []
        try:
            os.eventfd_read(self._wake)
        except BlockingIOError:
            return news
        while True:
            try:
                item = self._news.get_nowait()
            except Empty:
                return news
            if isinstance(item, Exception) and not isinstance(item, ConfigurationError):
                raise item
            news.append(item)

    def close(self) -> None:
        """Nobody listens any more. May be called twice."""
        with self._lock:
            if not self._is_closed:
                self._is_closed = True
                os.close(self._wake)

    def _run(self) -> None:
        try:
            self._tell(resolve(self._model, progress=self._tell, stage=self._stage))
        except Exception as error:
            self._tell(error)

    def _tell(self, item: News | Exception) -> None:
        with self._lock:
            if not self._is_closed:
                self._news.put(item)
                os.eventfd_write(self._wake, 1)
