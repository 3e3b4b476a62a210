"""``python -m stageline_engine.sources.hub_fetch FOLDER SPECS``: the child of fetch.py.

Fills the holes of an outline's weight files with what some stages read, over a few connections.
"""

from __future__ import annotations

import shutil
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path

import msgspec
from huggingface_hub.errors import OfflineModeIsEnabled

from stageline_engine.core.deployment import StageSpec
from stageline_engine.core.errors import ModelSourceError
from stageline_engine.sources import child, hub_errors, spans, store
from stageline_engine.sources.fetch import missing_bytes
from stageline_engine.sources.hub_progress import Counter, shown
from stageline_engine.sources.hub_ranges import model_of, read_range
from stageline_engine.sources.spans import Span
from stageline_engine.sources.sparse_file import SparseFile, fetch_name, record_of

CONNECTIONS = 4
REQUEST_BYTES = 64 << 20
"""Most that one request asks for: hubs limit requests, and connections should end at about the same time."""
KEEP_BYTES = 16 << 20
"""So much of a request may be lost when this process is killed."""


class _Stopped(Exception):
    """Another connection has failed."""


def work(arguments: Sequence[str], report: child.Reporter) -> None:
    """Fetch what is missing.

    Raises:
        ModelSourceError: see :func:`stageline_engine.sources.fetch.begin`.
    """
    folder, specs = Path(arguments[0]), msgspec.json.decode(arguments[1], type=list[StageSpec])
    some_file = next(iter(missing_bytes(folder, specs)), None)
    if some_file is None:
        return
    name = fetch_name(some_file)
    with store.locked(name, report.progress, f"fetches into {name.removesuffix('.fetch')}"):
        missing = missing_bytes(folder, specs)
        if missing:
            _Fetching(missing, specs, report).run()


class _Fetching:
    """Bytes of several files, while they come."""

    def __init__(self, missing: dict[Path, list[Span]], specs: Sequence[StageSpec], report: child.Reporter) -> None:
        self._missing = missing
        self._specs = specs
        self._report = report
        self._total = sum(map(spans.length, missing.values()))
        self._counter = Counter(report.progress, self._total)
        self._stop = threading.Event()
        self._files: dict[Path, SparseFile] = {}
        self.model = ""

    def run(self) -> None:
        """Fetch, or say why not, and what is missing then."""
        for path in self._missing:
            record = record_of(path)
            assert record is not None, "a whole file lacks nothing"
            self.model = model_of(record)
            self._files[path] = SparseFile(path.resolve(), record)
        self._check_room()
        stages = ", ".join(str(spec.stage) for spec in self._specs)
        what = f"stage{'s' if len(self._specs) > 1 else ''} {stages}"
        self._report.progress(f"fetching {shown(self._total)} of {self.model} for {what}")
        try:
            self._fetch_all()
        except OfflineModeIsEnabled as error:
            raise self._offline(what) from error
        finally:
            for file in self._files.values():
                file.close()
        self._report.progress(f"fetched all {shown(self._total)}")

    def _offline(self, what: str) -> ModelSourceError:
        parts = [f"{spans.length(lacking)} bytes of {path.name}" for path, lacking in self._missing.items()]
        return ModelSourceError(
            "model",
            self.model,
            f"HF_HUB_OFFLINE is set, and {what} (layers {self._layers()}) lacks {shown(self._total)} that were "
            f"never fetched: {', '.join(parts)}; start once with the hub, or with a split that was fetched",
        )

    def _layers(self) -> str:
        return ", ".join(f"{spec.start}-{spec.end - 1}" for spec in self._specs)

    def _check_room(self) -> None:
        folder = next(iter(self._missing)).resolve().parent
        free = shutil.disk_usage(folder).free
        if free < self._total:
            raise hub_errors.no_room(self.model, folder, self._total, free)

    def _fetch_all(self) -> None:
        with ThreadPoolExecutor(CONNECTIONS) as threads:
            asked = [
                threads.submit(self._fetch, file, piece)
                for path, file in self._files.items()
                for piece in spans.pieces(self._missing[path], REQUEST_BYTES)
            ]
            done, _ = wait(asked, return_when=FIRST_EXCEPTION)
            self._stop.set()
            threads.shutdown(cancel_futures=True)
        errors = [error for future in done if (error := future.exception()) is not None]
        if errors:
            raise errors[0]

    def _pause(self, seconds: float) -> None:
        if self._stop.wait(seconds):
            raise _Stopped

    def _fetch(self, file: SparseFile, piece: Span) -> None:
        kept = at = piece[0]

        def take(place: int, data: bytes) -> None:
            nonlocal kept, at
            if self._stop.is_set():
                raise _Stopped
            file.write(place, data)
            at = place + len(data)
            self._counter.add(len(data))
            if at - kept >= KEEP_BYTES:
                file.keep((kept, at))
                kept = at

        try:
            read_range(file.record, piece, take, self._report.progress, self._pause)
        except OfflineModeIsEnabled:
            raise
        except OSError as error:
            raise hub_errors.broke_off(self.model, error) from error
        finally:
            if at > kept:
                file.keep((kept, at))


if __name__ == "__main__":
    sys.exit(child.main(work))
