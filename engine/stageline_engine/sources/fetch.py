"""Fetching what stages on this machine read of a model's weights, while their ranks start and load.

    begin ──▶ child (hub_fetch.py) ──▶ sparse files ──▶ ranks, which wait for each tensor (sparse_file.Presence)

Only an outline of a hub's model lacks anything. Whoever hosts ranks begins before they load, once for all of them;
on another machine it resolves the pinned name of the model first, for a folder of its own.
"""

from __future__ import annotations

import os
import select
from collections.abc import Sequence
from pathlib import Path

import msgspec

from stageline_engine.core.deployment import StageSpec
from stageline_engine.sources import spans, store
from stageline_engine.sources.child import Child
from stageline_engine.sources.spans import Span
from stageline_engine.sources.sparse_file import fetch_name, record_of
from stageline_engine.sources.stage_bytes import stage_bytes

FETCHER = "stageline_engine.sources.hub_fetch"


def missing_bytes(folder: Path, specs: Sequence[StageSpec]) -> dict[Path, list[Span]]:
    """What stages read of the weight files of a canonical folder and is not there; files that lack nothing stay out.

    Of a folder without holes nothing is looked at: its faults are told by who loads it.

    Raises:
        ModelSourceError: a file with holes is damaged, or one beside it is missing.
    """
    wanted: dict[Path, list[Span]] = {}
    if not any(record_of(file) for file in folder.glob("*.safetensors")):
        return {}
    for spec in specs:
        for file, needed in stage_bytes(folder, spec).items():
            wanted.setdefault(file, []).extend(needed)
    missing: dict[Path, list[Span]] = {}
    for file, needed in wanted.items():
        record = record_of(file)
        if record is not None and (lacking := spans.difference(needed, record.present)):
            missing[file] = lacking
    return missing


class Fetch:
    """A fetch that was begun. Its owner waits for :meth:`fileno` and calls :meth:`poll`, or just calls :meth:`wait`."""

    def __init__(self, folder: Path, specs: Sequence[StageSpec], some_file: Path, progress: store.Progress) -> None:
        self._epoll = select.epoll()
        # Inherited, so that readers wait as long as this process or its child lives.
        announced = store.announce(fetch_name(some_file))
        self._announced: int | None = announced
        self._child: Child[None] = Child(
            FETCHER,
            [str(folder), msgspec.json.encode(list(specs)).decode()],
            None,
            progress,
            value=str(folder),
            inherit=[announced],
            online=True,
        )
        self._epoll.register(self._child, select.EPOLLIN)
        self._is_over = False

    def fileno(self) -> int:
        """Readable when :meth:`poll` has something to do; stays the same until :meth:`close`."""
        return self._epoll.fileno()

    def poll(self) -> None:
        """Pass on what the child said, without waiting.

        Raises:
            ModelSourceError: it cannot be fetched; see :func:`begin`.
        """
        if not self._is_over and self._epoll.poll(0):
            self._read()

    def wait(self) -> None:
        """Return when everything is there. Raises as :meth:`poll`."""
        while not self._is_over:
            self._epoll.poll()
            self._read()

    def close(self) -> None:
        """End it; what came so far is kept. May be called twice."""
        if not self._epoll.closed:
            self._epoll.close()
            self._child.close()
            self._withdraw()

    def _read(self) -> None:
        try:
            self._is_over = self._child.poll()
            if self._is_over:
                self._withdraw()
        except BaseException:
            # Readers go on waiting, and so leave it to the owner to say why: until close().
            self._is_over = True
            raise
        finally:
            if self._is_over:
                self._epoll.unregister(self._child)

    def _withdraw(self) -> None:
        if self._announced is not None:
            os.close(self._announced)
            self._announced = None


def begin(folder: Path, specs: Sequence[StageSpec], progress: store.Progress) -> Fetch | None:
    """Begin to fetch what these stages read of a canonical folder; None: everything is there.

    Raises:
        ModelSourceError: as :func:`missing_bytes`. Later, from the Fetch: the hub refuses or does not answer, another
            content has the same name, the disk is full.
    """
    some_file = next(iter(missing_bytes(folder, specs)), None)
    return None if some_file is None else Fetch(folder, specs, some_file, progress)


def fetch(folder: Path, specs: Sequence[StageSpec], progress: store.Progress) -> None:
    """Begin, and wait for the end. Raises as :func:`begin` says."""
    begun = begin(folder, specs, progress)
    if begun is not None:
        try:
            begun.wait()
        finally:
            begun.close()
