"""Weight files that hold only a part of a model: full size, header, holes, and beside each a record of what is there.

Readers see an ordinary safetensors file. ``FILE.present`` says where it comes from and which of its bytes have come;
a file without such a record is whole. Bytes are on disk before the record names them.
"""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import msgspec

from stageline_engine.core.errors import ModelSourceError
from stageline_engine.sources import spans, store
from stageline_engine.sources.spans import Span

_SUFFIX = ".present"
_LOOK_SECONDS = 0.05
"""Between two looks at the record by a reader whose bytes are still coming."""


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one file of a hub's repository, and which of its bytes are here."""

    repository: str
    commit: str
    name: str
    size: int
    etag: str
    """As the hub names the content; "" where it does not."""
    present: list[Span] = []


def record_of(file: Path) -> Record | None:
    """The record beside a file, which may be a link to it; None: the file is whole.

    Raises:
        ModelSourceError: the record is damaged.
    """
    path = _record_path(file.resolve())
    try:
        return msgspec.json.decode(path.read_bytes(), type=Record)
    except FileNotFoundError:
        return None
    except msgspec.DecodeError as error:
        remedy = "the record of what was fetched is damaged: remove its folder to have it made again"
        raise ModelSourceError("model", str(path), remedy) from error


def fetch_name(file: Path) -> str:
    """What the store's locks call the folder of a sparse file, which is fetched as one."""
    return f"{file.resolve().parent.name}.fetch"


class SparseFile:
    """The writing side: bytes come in any order, from several threads. Only one process may write at a time."""

    def __init__(self, path: Path, record: Record) -> None:
        self.record = record
        self._path = path
        self._lock = threading.Lock()
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        os.ftruncate(self._descriptor, record.size)

    def write(self, at: int, data: bytes) -> None:
        """Put ``data`` at its place; :meth:`keep` comes when it shall count."""
        view = memoryview(data)
        while view:
            count = os.pwrite(self._descriptor, view, at)
            view, at = view[count:], at + count

    def keep(self, span: Span) -> None:
        """Bring what was written to disk, and record it as present."""
        os.fdatasync(self._descriptor)
        with self._lock:
            self.record = msgspec.structs.replace(self.record, present=spans.union([*self.record.present, span]))
            written = _record_path(self._path).with_suffix(".new")
            written.write_bytes(msgspec.json.encode(self.record))
            written.replace(_record_path(self._path))

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


class Presence:
    """The reading side: whether bytes of a file are there, and waiting for those that are being fetched."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._record = record_of(file)

    def wait_for(self, span: Span, what: str) -> None:
        """Return when all bytes of ``span`` are there, at once where nothing is missing.

        Raises:
            ModelSourceError: they are not, and nobody fetches them; names ``what`` they are.
        """
        while not self._has(span):
            is_coming = store.is_announced(fetch_name(self._file))
            self._record = record_of(self._file)
            if self._has(span):
                return
            if not is_coming:
                raise ModelSourceError("model", str(self._file), f"{what} was not fetched for this stage: start again")
            time.sleep(_LOOK_SECONDS)

    def _has(self, span: Span) -> bool:
        return self._record is None or not spans.difference([span], self._record.present)


def _record_path(file: Path) -> Path:
    return file.with_name(file.name + _SUFFIX)
