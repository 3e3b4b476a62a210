"""A hub on this machine that speaks as much of the Hugging Face protocol as the engine needs, byte ranges included.

It counts the bytes that it sends of each file, and has the faults that a hub, a mirror or a network may have.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """One repository, and what was asked for."""

    repository: str
    files: dict[str, bytes]
    """Of the newest commit, which ``main`` names."""
    commit: str = COMMIT
    older: dict[str, dict[str, bytes]] = field(default_factory=dict)
    """Files of commits that are not the newest any more."""
    url: str = ""
    sizes: dict[str, int] = field(default_factory=dict)
    """Files that are said to be larger than what there is of them."""
    cut_once: str | None = None
    """The first answer with this file's content breaks off in its middle; those with a header do not."""
    statuses: dict[str, list[int]] = field(default_factory=dict)
    """What the next requests for parts of a file are answered with; 200 stands for what was asked for."""
    ignores_ranges: bool = False
    redirects: bool = False
    """Weights come from elsewhere, as large files of a real hub do; that place names their content otherwise."""
    held: dict[str, threading.Event] = field(default_factory=dict)
    """Answers with the content of a file wait for the event; those with a header do not."""
    requests: list[str] = field(default_factory=list)
    """``METHOD path`` of each request, followed by the range if there is one."""
    sent: Counter[str] = field(default_factory=Counter)
    """Bytes of each file's content that were sent."""

    def served(self, name: str) -> list[str]:
        """The requests for the content of one file."""
        return [line for line in self.requests if line.startswith("GET") and f"/{name}" in line]

    def sent_weights(self) -> int:
        """Bytes of weight files that were sent, headers included."""
        return sum(count for name, count in self.sent.items() if name.endswith(".safetensors"))

    def forget(self) -> None:
        """Count anew."""
        self.requests.clear()
        self.sent.clear()

    def push(self, commit: str, files: dict[str, bytes]) -> None:
        """Make a new commit the newest."""
        self.older[self.commit] = self.files
        self.commit, self.files = commit, files

    def content(self, revision: str, name: str) -> bytes | None:
        """A file of a commit or of ``main``."""
        files = self.files if revision in ("main", self.commit) else self.older.get(revision, {})
        return files.get(name)


@contextlib.contextmanager
def running_hub(repository: str, files: dict[str, bytes], address: str = "127.0.0.1") -> Iterator[Hub]:
    """Serve ``files`` as ``repository`` on an address of this machine, until the block ends."""
    hub = Hub(repository, files)

    class Handler(_Handler):
        pass

    Handler.hub = hub
    server = ThreadingHTTPServer((address, 0), Handler)
    server.daemon_threads = True
    hub.url = f"http://{address}:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield hub
    finally:
        for event in hub.held.values():
            event.set()
        server.shutdown()
        thread.join()
        server.server_close()


def be_a_machine(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on have caches of one's own, below ``folder``."""
    monkeypatch.setenv("HF_HOME", str(folder / "hf"))
    monkeypatch.setenv("STAGELINE_CACHE", str(folder / "cache"))


@contextlib.contextmanager
def our_hub(files: dict[str, bytes], folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with ``files`` as org/tiny, asked by this process and its children, on a machine that knows nothing yet."""
    with running_hub("org/tiny", files) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        monkeypatch.delenv("HF_HUB_CACHE", raising=False)
        be_a_machine(folder, monkeypatch)
        yield running


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing."""

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        url = urlsplit(self.path)
        wanted = self.headers.get("Range")
        self.hub.requests.append(" ".join(filter(None, [self.command, self.path, wanted])))
        parts = unquote(url.path).strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            self._api("/".join(parts[2:4]), parts[4:], parse_qs(url.query))
        elif len(parts) >= 5 and parts[2] == "resolve":
            self._file("/".join(parts[:2]), parts[3], "/".join(parts[4:]), wanted, with_body=with_body)
        elif parts[0] == "elsewhere":
            content = self.hub.content(parts[1], parts[2])
            assert content is not None
            self._content(parts[2], content, "another-name", wanted, with_body=with_body)
        else:
            self._refuse(404, "RepoNotFound", "Repository not found")

    def _api(self, repository: str, rest: list[str], query: dict[str, list[str]]) -> None:
        hub = self.hub
        if repository != hub.repository:
            self._refuse(404, "RepoNotFound", "Repository not found")
        elif rest[:1] == ["tree"]:
            self._json([{"type": "file", "path": name, **self._facts(name)} for name in hub.files])
        elif len(rest) == 2 and rest[1] not in ("main", hub.commit):
            self._refuse(404, "RevisionNotFound", f"Invalid rev id: {rest[1]}")
        else:
            siblings = [{"rfilename": name, **self._facts(name)} for name in hub.files]
            self._json({"id": repository, "modelId": repository, "sha": hub.commit, "siblings": siblings})

    def _facts(self, name: str) -> dict[str, object]:
        content = self.hub.files[name]
        size = self.hub.sizes.get(name, len(content))
        return {"size": size, "oid": _etag(content), "blobId": _etag(content)}

    def _file(self, repository: str, revision: str, name: str, wanted: str | None, *, with_body: bool) -> None:
        hub = self.hub
        content = hub.content(revision, name) if repository == hub.repository else None
        if content is None:
            self._refuse(404, "EntryNotFound", "Entry not found")
        elif wanted and hub.statuses.get(name) and (status := hub.statuses[name].pop(0)) != 200:
            self._refuse(status, "", "because")
        elif hub.redirects and name.endswith(".safetensors"):
            self.send_response(302)
            self.send_header("Location", f"{hub.url}/elsewhere/{revision}/{name}")
            self.send_header("X-Linked-ETag", f'"{_etag(content)}"')
            self.send_header("X-Repo-Commit", hub.commit)
            self.send_header("Content-Length", "0")
            self.end_headers()
        else:
            self._content(name, content, _etag(content), wanted, with_body=with_body)

    def _content(self, name: str, content: bytes, etag: str, wanted: str | None, *, with_body: bool) -> None:
        hub = self.hub
        size = hub.sizes.get(name, len(content))
        start, end = (0, size) if not wanted or hub.ignores_ranges else _span(wanted, size)
        is_part = bool(wanted) and not hub.ignores_ranges
        self.send_response(206 if is_part else 200)
        self.send_header("ETag", f'"{etag}"')
        self.send_header("X-Repo-Commit", hub.commit)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(end - start))
        if is_part:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{size}")
        self.end_headers()
        if not with_body:
            return
        is_header = is_part and start <= 8
        if name in hub.held and not is_header:
            self.wfile.flush()
            hub.held[name].wait()
        body = content[start:end].ljust(end - start, b"\0")
        if hub.cut_once == name and not is_header:
            hub.cut_once = None
            body = body[: len(body) // 2]
            self.close_connection = True
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.wfile.write(body)
            hub.sent[name] += len(body)

    def _refuse(self, status: int, code: str, message: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", message)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _json(self, value: object) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _span(wanted: str, size: int) -> tuple[int, int]:
    first, _, last = wanted.removeprefix("bytes=").partition("-")
    return int(first), min(size, int(last) + 1) if last else size


def _etag(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()
