"""A hub on this machine that speaks as much of the Hugging Face protocol as a download needs, byte ranges included."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """One repository with one commit, and what was asked for."""

    repository: str
    files: dict[str, bytes]
    url: str = ""
    cut_once: str | None = None
    """The first answer with this file's content breaks off in its middle."""
    requests: list[str] = field(default_factory=list)
    """``METHOD path`` of each request, followed by the range if there is one."""

    def served(self, name: str) -> list[str]:
        """The requests for the content of one file."""
        return [line for line in self.requests if line.startswith("GET") and f"/{name}" in line]


@contextlib.contextmanager
def running_hub(repository: str, files: dict[str, bytes]) -> Iterator[Hub]:
    """Serve ``files`` as ``repository`` until the block ends."""
    hub = Hub(repository, files)

    class Handler(_Handler):
        pass

    Handler.hub = hub
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


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
        else:
            self._refuse("RepoNotFound", "Repository not found")

    def _api(self, repository: str, rest: list[str], query: dict[str, list[str]]) -> None:
        if repository != self.hub.repository:
            self._refuse("RepoNotFound", "Repository not found")
        elif rest[:1] == ["tree"]:
            self._json([{"type": "file", "path": name, **_facts(content)} for name, content in self.hub.files.items()])
        elif len(rest) == 2 and rest[1] not in ("main", COMMIT):
            self._refuse("RevisionNotFound", f"Invalid rev id: {rest[1]}")
        else:
            siblings = [{"rfilename": name, **_facts(content)} for name, content in self.hub.files.items()]
            self._json({"id": repository, "modelId": repository, "sha": COMMIT, "siblings": siblings})

    def _file(self, repository: str, revision: str, name: str, wanted: str | None, *, with_body: bool) -> None:
        content = self.hub.files.get(name)
        if repository != self.hub.repository or revision not in ("main", COMMIT) or content is None:
            self._refuse("EntryNotFound", "Entry not found")
            return
        start = int(wanted.removeprefix("bytes=").partition("-")[0]) if wanted else 0
        self.send_response(206 if wanted else 200)
        self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(content) - start))
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if not with_body:
            return
        if self.hub.cut_once == name:
            self.hub.cut_once = None
            self.wfile.write(content[start : start + len(content) // 2])
            self.close_connection = True
        else:
            self.wfile.write(content[start:])

    def _refuse(self, code: str, message: str) -> None:
        self.send_response(404)
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


def _facts(content: bytes) -> dict[str, object]:
    return {"size": len(content), "oid": hashlib.sha1(content).hexdigest(), "blobId": hashlib.sha1(content).hexdigest()}
