"""The folder that keeps prepared models: each is made once, under a lock, and appears whole or not at all.

<root>/models/NAME            a canonical folder
<root>/models/.partial-NAME   one in the making; removed by whoever finds it without a living maker
<root>/locks/NAME.lock        held while NAME is made, by the maker and by its child processes
<root>/locks/NAME.fetch.lock  held while weights are fetched into the folder NAME; NAME.fetch.begun.lock: shared by
                              those who have begun or will at once, for readers that wait for weights
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


def found(name: str) -> Path | None:
    """The folder ``models/NAME``, if it was made."""
    folder = root() / "models" / name
    return folder if folder.is_dir() else None


def prepared(name: str, make: Callable[[Path, int], None], progress: Progress) -> Path:
    """The folder ``models/NAME``, made by ``make(empty_folder, lock)`` if it is not there yet.

    ``lock`` is a file descriptor: a child process that writes into the folder must inherit it, so that nobody
    takes the folder for abandoned while the child lives.
    """
    if (folder := found(name)) is not None:
        return folder
    folder = root() / "models" / name
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(name, progress, f"prepares {name}") as lock:
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
def locked(name: str, progress: Progress, doing: str) -> Iterator[int]:
    """Hold the lock ``NAME`` of this machine; waits for other processes, and says that one is ``doing`` something."""
    lock = _open_lock(name)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress(f"waiting for another process that {doing}")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock
    finally:
        os.close(lock)


def announce(name: str) -> int:
    """Let readers know that NAME is coming, until the descriptor and its copies in child processes are closed."""
    lock = _open_lock(f"{name}.begun")
    fcntl.flock(lock, fcntl.LOCK_SH)
    return lock


def is_announced(name: str) -> bool:
    """Whether somebody has announced NAME and lives."""
    lock = _open_lock(f"{name}.begun")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


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
