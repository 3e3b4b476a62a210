"""Lines about what comes from a hub, every few seconds."""

from __future__ import annotations

import threading
import time

from tqdm.auto import tqdm

from stageline_engine.sources.store import Progress

REPORT_SECONDS = 5.0


def shown(size: int) -> str:
    """A number of bytes for a person."""
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


class Counter:
    """Counts bytes of ``total``, from any thread, and says a line now and then."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress = progress
        self._total = total
        self._lock = threading.Lock()
        self._count = 0
        self._next = time.monotonic() + REPORT_SECONDS

    def add(self, count: int) -> None:
        """Note that ``count`` more bytes have come."""
        with self._lock:
            self._count += count
            if time.monotonic() >= self._next:
                self._next = time.monotonic() + REPORT_SECONDS
                self._progress(f"fetched {shown(self._count)} of {shown(self._total)}")


def line_bar(progress: Progress, total: int) -> type[tqdm]:  # type: ignore[type-arg]
    """A progress bar for huggingface_hub that draws nothing and says lines."""
    counter = Counter(progress, total)

    class LineBar(tqdm):  # type: ignore[type-arg]
        def display(self, msg: str | None = None, pos: int | None = None) -> None:
            """Draw nothing."""

        def update(self, n: float | None = 1) -> bool | None:
            """Count, and report now and then."""
            # Two bars count bytes: those of the network and those of the disk.
            if self.unit == "B" and n and not str(self.desc).startswith("Downloading"):
                counter.add(int(n))
            return super().update(n)

    return LineBar
