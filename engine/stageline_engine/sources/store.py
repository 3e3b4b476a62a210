"""The folder that keeps prepared models: each is made once, under a lock, and appears whole or not at all.

<root>/models/NAME            a canonical folder
<root>/models/.partial-NAME   one in the making; removed by whoever finds it without a living maker
<root>/locks/NAME.lock        held while NAME is made, by the maker and by its child processes
<root>/profiles/HASH.json     profiles of models, see profile_cache.py
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

Progress = Callable[[str], None]
"""Takes one line about a step that may last long."""


def root() -> Path:
    """Where prepared models are kept: ``STAGELINE_CACHE``, else ``stageline`` in the user's cache folder."""
    if chosen := os.environ.get("STAGELINE_CACHE"):
        return Path(chosen).expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser().absolute() / "stageline"


def prepared(name: str, make: Callable[[Path, int], None], progress: Progress) -> Path:
    """The folder ``models/NAME``, made by ``make(empty_folder, lock)`` if it is not there yet.

    ``lock`` is a file descriptor: a child process that writes into the folder must inherit it, so that nobody
    takes the folder for abandoned while the child lives.
    """
    folder = root() / "models" / name
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _locked(name, progress) as lock:
        if folder.is_dir():
            return folder
        partial = folder.with_name(f".partial-{name}")
        _remove_abandoned(folder.parent, own=partial)
        partial.mkdir()
        try:
            make(partial, lock)
            _flush(partial)
            partial.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return folder


@contextlib.contextmanager
def _locked(name: str, progress: Progress) -> Iterator[int]:
    lock = _open_lock(name)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress(f"waiting for another process that prepares {name}")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock
    finally:
        os.close(lock)


def _open_lock(name: str) -> int:
    locks = root() / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    return os.open(locks / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)


def _remove_abandoned(models: Path, own: Path) -> None:
    """Remove half-made folders of makers that were killed; the kernel gave their locks back."""
    for partial in models.glob(".partial-*"):
        if partial == own:
            shutil.rmtree(partial)
            continue
        lock = _open_lock(partial.name.removeprefix(".partial-"))
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(partial, ignore_errors=True)
        except BlockingIOError:
            pass
        finally:
            os.close(lock)


def _flush(folder: Path) -> None:
    """Bring the files to disk before the rename that declares them complete."""
    for path in folder.iterdir():
        if path.is_file() and not path.is_symlink():
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)
