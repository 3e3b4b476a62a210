"""Limits at the door: what a request may cost before the engine hears of it. All are told in docs/api.md.

The limits on sampling values are in :mod:`stageline_engine.core.request`.
"""

from __future__ import annotations

MAX_BODY_BYTES = 16 * 2**20
"""Bytes of a request body, counted while it arrives (413)."""
BODY_TIMEOUT = 60.0
"""Seconds that a body may take to arrive (408)."""
MAX_JSON_DEPTH = 32
"""Objects and arrays inside each other."""
MAX_PROMPTS = 128
"""Prompts of one completion request."""
MAX_SEQUENCES = 256
"""Prompts times ``n`` of one completion request."""
MAX_MESSAGES = 1024
"""Messages of one chat."""
MAX_CONTENT_PARTS = 256
"""Text parts of one message."""
MAX_DETOKENIZE_TOKENS = 2**18
"""Token ids of one detokenize request."""
MAX_METADATA = 16
"""Entries of ``metadata`` (the OpenAI API's own limit)."""
MAX_STOP_CHARACTERS = 1024
"""Characters of one stop string."""
MAX_REQUEST_ID_CHARACTERS = 128
"""A longer ``X-Request-Id`` is replaced by one of our own."""
MAX_OPEN_REQUESTS = 4096
"""Requests to the engine's endpoints that may be open at the same time (429)."""
RETRY_AFTER_OPEN_REQUESTS = 1
"""Seconds told to a client when there are too many open requests."""
RETRY_AFTER_DRAINING = 5
"""Seconds told to a client when the server drains: by then another replica, or the restarted one, can answer."""
RETRY_AFTER_FAILED = 10
"""Seconds told to a client when the engine has failed."""
KEEP_ALIVE_SECONDS = 15.0
"""A stream that has sent nothing for so long sends a comment, so that proxies do not close it."""
LONG_TEXT = 4096
"""Characters from which a text is tokenised in a thread, off the event loop. So many took 0.7 ms with a small
vocabulary."""
LONG_BODY = 64 * 2**10
"""Bytes from which a body is parsed and checked in a thread, off the event loop."""
TEXT_THREADS = 2
"""Threads that tokenise long texts and parse long bodies."""

_UNIFORM = bytes.maketrans(b"{}", b"[]")
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


def exceeds_json_depth(body: bytes, limit: int = MAX_JSON_DEPTH) -> bool:
    """Whether the JSON text nests deeper than ``limit``. Right for valid JSON; invalid JSON is refused later anyway.

    Works on whole strings of bytes, so that megabytes of brackets cost milliseconds.
    """
    if body.count(b"[") + body.count(b"{") <= limit:
        return False
    left = _without_strings(body).translate(_UNIFORM, _NOT_BRACKETS)
    for _ in range(limit):
        if not left:
            return False
        # One round takes away the innermost level.
        left = left.replace(b"[]", b"")
    return bool(left)


def _without_strings(body: bytes) -> bytes:
    # Outside and inside of strings alternate at the quotes that no backslash escapes.
    plain = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    return b"".join(plain.split(b'"')[::2])
