"""`GET /live`, `/ready` and `/metrics` of a node, from a thread of its own; the node's loop tells it what to say."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client import CONTENT_TYPE_LATEST

from stageline_engine.core.errors import ConfigurationError
from stageline_engine.node.metrics import NodeState, exposition

LIVE_SECONDS = 10.0
"""A loop that has not moved for so long is stuck. It moves every second at least; ending ranks takes it 2 s."""
_REQUEST_SECONDS = 5.0


class Probes:
    """Listens from the start until :meth:`close`.

    Raises:
        ConfigurationError: the port cannot be used.
    """

    def __init__(self, address: str, port: int, stage: int) -> None:
        self._state = NodeState(stage, 0, is_ready=False, hears_head=False)
        self._moved_at = time.monotonic()
        self._not_ready = "the head has not been reached yet"

        class Handler(_Handler):
            answers = {"/live": self._why_dead, "/ready": self._why_not_ready}  # noqa: RUF012
            metrics = staticmethod(exposition(lambda: self._state))

        class Server(ThreadingHTTPServer):
            address_family = socket.AF_INET6 if ":" in address else socket.AF_INET
            daemon_threads = True

        try:
            self._server = Server((address, port), Handler)
        except OSError as error:
            raise ConfigurationError(
                "--status-port", f"{address}:{port}", f"{error.strerror}: choose another"
            ) from error
        self._thread = threading.Thread(target=self._server.serve_forever, name="probes", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self._server.server_address[1])

    def moved(self, not_ready: str) -> None:
        """The node's loop moves; ``not_ready`` says why the stage does not work, "" when it does."""
        self._moved_at = time.monotonic()
        self._not_ready = not_ready

    def saw(self, state: NodeState) -> None:
        """What a scrape shows from now on. A value of its own, so that no thread waits for the other."""
        self._state = state

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _why_dead(self) -> str:
        seconds = time.monotonic() - self._moved_at
        return f"the loop has not moved for {seconds:.1f} s" if seconds > LIVE_SECONDS else ""

    def _why_not_ready(self) -> str:
        return self._why_dead() or self._not_ready


class _Handler(BaseHTTPRequestHandler):
    answers: dict[str, Callable[[], str]]
    """By path: why not, "" for yes."""
    metrics: Callable[[], bytes]
    timeout = _REQUEST_SECONDS

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing: kubelets ask every few seconds."""

    def do_GET(self) -> None:
        """Answer 200, 503 with the reason, or 404."""
        path = self.path.partition("?")[0]
        if path == "/metrics":
            self._send(HTTPStatus.OK, CONTENT_TYPE_LATEST, self.metrics())
            return
        answer = self.answers.get(path)
        if answer is None:
            self._say(HTTPStatus.NOT_FOUND, "there are /live, /ready and /metrics")
        elif reason := answer():
            self._say(HTTPStatus.SERVICE_UNAVAILABLE, reason)
        else:
            self._say(HTTPStatus.OK, "ok")

    def _say(self, status: HTTPStatus, text: str) -> None:
        self._send(status, "text/plain; charset=utf-8", f"{text}\n".encode())

    def _send(self, status: HTTPStatus, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
