"""A stranger at a port: speaks gRPC and HTTP to it, and tells what it was answered."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Iterable

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import ConnectionTerminated, Event, ResponseReceived, StreamEnded, StreamReset, TrailersReceived

SILENCE_SECONDS = 5.0
_NODE = "ab" * 28
"""Who the stranger says it is. Ray 2.60 asks every peer's name before its token: a raylet that is called without one,
at ray.rpc.syncer.RaySyncer/StartSync, ends itself. docs/security.md tells what keeps strangers from there."""
_BATCH = 40
"""Calls on one connection: servers allow a hundred open streams or more."""


def call_all(address: str, port: int, paths: Iterable[str], token: str = "") -> dict[str, int | None]:
    """Call each gRPC method with an empty message; its ``grpc-status``, or None when there was no answer."""
    wanted = list(paths)
    answers: dict[str, int | None] = {}
    for start in range(0, len(wanted), _BATCH):
        answers |= _call(address, port, wanted[start : start + _BATCH], token)
    return answers


def get(address: str, port: int, path: str) -> int | None:
    """The status of a plain HTTP/1.1 GET; None when what listens there does not speak it."""
    connection = http.client.HTTPConnection(address, port, timeout=SILENCE_SECONDS)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def _call(address: str, port: int, paths: list[str], token: str) -> dict[str, int | None]:
    answers: dict[str, int | None] = dict.fromkeys(paths)
    http2 = H2Connection(H2Configuration(client_side=True))
    with socket.create_connection((address, port), timeout=SILENCE_SECONDS) as connection:
        http2.initiate_connection()
        streams = {}
        for path in paths:
            number = http2.get_next_available_stream_id()
            streams[number] = path
            headers = [
                (":method", "POST"),
                (":scheme", "http"),
                (":path", path),
                (":authority", f"{address}:{port}"),
                ("te", "trailers"),
                ("content-type", "application/grpc"),
                ("node_id", _NODE),
                *([("authorization", f"Bearer {token}")] if token else []),
            ]
            http2.send_headers(number, headers)
            http2.send_data(number, b"\0\0\0\0\0", end_stream=True)
        open_streams = set(streams)
        try:
            connection.sendall(http2.data_to_send())
            while open_streams and (data := connection.recv(65536)):
                for event in http2.receive_data(data):
                    if isinstance(event, ConnectionTerminated):
                        return answers
                    if isinstance(event, ResponseReceived | TrailersReceived):
                        _note(event, answers, streams)
                    if isinstance(event, StreamEnded | StreamReset):
                        open_streams.discard(event.stream_id)
                connection.sendall(http2.data_to_send())
        except OSError:
            return answers  # silence, or the end of the connection
    return answers


def _note(event: Event, answers: dict[str, int | None], streams: dict[int, str]) -> None:
    assert isinstance(event, ResponseReceived | TrailersReceived)
    status = dict(event.headers).get(b"grpc-status")
    if status is not None:
        answers[streams[event.stream_id]] = int(status)
