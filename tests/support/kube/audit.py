"""The API server's audit log: who asked for what. Read once, however often it is asked; only an index is kept."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec


class _User(msgspec.Struct):
    username: str = ""
    """Not there when the API server could not find out who asked: while etcd is away, say."""


class _Object(msgspec.Struct):
    namespace: str | None = None


class _Event(msgspec.Struct):
    """The part of an event by which it is found again."""

    user: _User
    impersonatedUser: _User | None = None
    objectRef: _Object | None = None


class _Place(NamedTuple):
    offset: int
    length: int
    user: str
    namespace: str | None


class AuditLog:
    """Events in the order in which their requests ended. May be used from several threads."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._places: list[_Place] = []
        self._end = 0
        self._decoder = msgspec.json.Decoder(_Event)
        self._lock = threading.Lock()

    def events(self, user: str | None = None, namespace: str | None = None) -> list[dict[str, Any]]:
        """Events so far: of one user, impersonated ones included, about one namespace, or all."""
        with self._lock, self._path.open("rb") as file:
            self._places += self._new_places(file)
            wanted = [
                each
                for each in self._places
                if user in (None, each.user) and (namespace is None or each.namespace == namespace)
            ]
            return [msgspec.json.decode(self._read(file, place)) for place in wanted]

    def users(self) -> set[str]:
        """Everybody who asked for anything."""
        with self._lock, self._path.open("rb") as file:
            self._places += self._new_places(file)
            return {each.user for each in self._places}

    def _new_places(self, file: Any) -> Iterator[_Place]:
        file.seek(self._end)
        for line in file:
            if not line.endswith(b"\n"):
                # It is being written.
                return
            event = self._decoder.decode(line)
            user = (event.impersonatedUser or event.user).username
            namespace = event.objectRef.namespace if event.objectRef is not None else None
            yield _Place(self._end, len(line), user, namespace)
            self._end += len(line)

    @staticmethod
    def _read(file: Any, place: _Place) -> bytes:
        file.seek(place.offset)
        content: bytes = file.read(place.length)
        return content
