"""`GET /live` and `GET /ready` of a node, from a thread of its own; the node's loop tells it what to say."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from stageline_engine.core.errors import ConfigurationError

LIVE_SECONDS = 10.0
"""A loop that has not moved for so long is stuck. It moves every second at least; ending ranks takes it 2 s."""
_REQUEST_SECONDS = 5.0


class Probes:
    """Listens from the start until :meth:`close`.

    Raises:
        ConfigurationError: the port cannot be used.
    """

    def __init__(self, address: str, port: int) -> None:
        self._moved_at = time.monotonic()
        self._not_ready = "the head has not been reached yet"

        class Handler(_Handler):
            answers = {"/live": self._why_dead, "/ready": self._why_not_ready}  # noqa: RUF012

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
    timeout = _REQUEST_SECONDS

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing: kubelets ask every few seconds."""

    def do_GET(self) -> None:
        """Answer 200, 503 with the reason, or 404."""
        answer = self.answers.get(self.path.partition("?")[0])
        if answer is None:
            self._say(HTTPStatus.NOT_FOUND, "there are /live and /ready")
        elif reason := answer():
            self._say(HTTPStatus.SERVICE_UNAVAILABLE, reason)
        else:
            self._say(HTTPStatus.OK, "ok")

    def _say(self, status: HTTPStatus, text: str) -> None:
        body = f"{text}\n".encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
