"""Ranges of bytes of files in a hub's repository, at one commit, through huggingface_hub's own session and names.

Each answer is checked to be the asked-for part of the content that its header was read from. What breaks off is asked
again from where it stopped.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

from huggingface_hub import constants, get_session, hf_hub_url
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status  # type: ignore[attr-defined]  # exported late

from stageline_engine.core.errors import ModelSourceError
from stageline_engine.sources import hub_errors, identity, store
from stageline_engine.sources.hub_errors import TransportError
from stageline_engine.sources.spans import Span
from stageline_engine.sources.sparse_file import Record
from stageline_engine.sources.store import Progress

WAITS = (0.5, 1.0, 2.0, 4.0)
"""Seconds before each further try, counted anew whenever something came."""
LONGEST_WAIT = 60.0
"""Seconds that a hub may ask for before a further try; one that asks for more is not waited for."""
_BUSY = frozenset({408, 429, 500, 502, 503, 504})
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")


class EmptyAnswer(Exception):
    """A hub sent nothing of what it promised."""


def read_range(
    file: Record,
    span: Span,
    take: Callable[[int, bytes], None],
    progress: Progress,
    pause: Callable[[float], None] = time.sleep,
) -> str:
    """Give the bytes of ``span`` to ``take(place, bytes)``, in order; returns how the hub names the content.

    Args:
        progress: gets a line when something has to be tried again.
        pause: waits so many seconds before that; what it raises ends everything, as what ``take`` raises.

    Raises:
        ModelSourceError: the hub refuses, does not answer, ignores ranges, or has another file by now.
        OfflineModeIsEnabled: nothing may be asked.
    """
    at, end = span
    failures, etag = 0, file.etag
    while at < end:
        before = at
        try:
            with _opened(file, (at, end)) as response:
                etag = _checked(file, (at, end), response)
                for chunk in response.iter_bytes():
                    take(at, chunk[: end - at])
                    at += len(chunk)
                    failures = 0
            if at > before:
                continue
            raise EmptyAnswer("an answer without content")
        except HfHubHTTPError as error:
            wait = _wait_after(error, failures)
            if wait is None:
                raise hub_errors.refused(model_of(file), file.name, error) from error
            reason = f"the hub is busy (status {error.response.status_code})"
        except (TransportError, EmptyAnswer) as error:
            if failures == len(WAITS):
                raise hub_errors.broke_off(model_of(file), error) from error
            wait, reason = WAITS[failures], "the download broke off"
        failures += 1
        progress(f"{reason}: trying {file.name} again in {wait:g} s")
        pause(wait)
    return etag


def model_of(file: Record) -> str:
    """How a person would write the repository of a file, at its commit."""
    return f"hf://{file.repository}@{file.commit}"


def _wait_after(error: HfHubHTTPError, failures: int) -> float | None:
    """Seconds until another try makes sense; None: it does not."""
    if error.response.status_code not in _BUSY or failures == len(WAITS):
        return None
    asked = error.response.headers.get("retry-after", "")
    wait = float(asked) if asked.isdecimal() else WAITS[failures]
    return wait if wait <= LONGEST_WAIT else None


@contextlib.contextmanager
def _opened(file: Record, span: Span) -> Iterator[Any]:
    """The answer to a request for a part, whose status is no error."""
    url = hf_hub_url(file.repository, file.name, revision=file.commit)
    # Compressed, a part would be a part of something else.
    asked = {"Range": f"bytes={span[0]}-{span[1] - 1}", "Accept-Encoding": "identity"}
    headers = build_hf_headers(headers=asked)
    with get_session().stream("GET", url, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT) as response:
        hf_raise_for_status(response)
        yield response


def _checked(file: Record, span: Span, response: Any) -> str:
    """Refuse an answer that is not this part of this content; returns how the hub names the content."""
    if response.status_code != 206:
        raise ModelSourceError(
            "model",
            model_of(file),
            f"{constants.ENDPOINT} ignores byte ranges (it answered {file.name} with status {response.status_code} "
            f"instead of 206): fetch all of it with `hf download {file.repository} --revision {file.commit}`, and "
            "start again",
        )
    # A hub sends large files from elsewhere, and names their content only in the answer that says from where.
    first = response.history[0] if response.history else response
    named = first.headers.get(constants.HUGGINGFACE_HEADER_X_LINKED_ETAG) or first.headers.get("etag") or ""
    etag = named.removeprefix("W/").strip('"')
    match = _CONTENT_RANGE.fullmatch(response.headers.get("content-range", ""))
    is_same = match is not None and (int(match[1]), int(match[3])) == (span[0], file.size)
    if not is_same or (etag and file.etag and etag != file.etag):
        raise ModelSourceError(
            "model",
            model_of(file),
            f"the hub answers with another content of {file.name} than its header was read from: remove "
            f"{store.root() / 'models' / identity.of_commit(file.repository, file.commit)} and start again",
        )
    return etag
