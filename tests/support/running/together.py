"""Scenes that are played at the same time, since each mostly waits; a test asks for the outcome of one."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def played_together(
    names: Collection[str], play: Callable[[str, Path], None], folder: Path, at_once: int | None = None
) -> Iterator[dict[str, Future[None]]]:
    """Outcomes by name; ends when all have been played.

    Args:
        play: plays the scene of a name; the path is for its own folder, which is not there yet.
        at_once: most scenes at the same time; None: all.
    """
    with ThreadPoolExecutor(at_once or len(names)) as pool:
        yield {name: pool.submit(play, name, folder / str(number)) for number, name in enumerate(names)}
