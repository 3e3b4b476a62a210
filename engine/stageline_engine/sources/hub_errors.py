"""What a hub answers, as errors of ours: one line with a remedy."""

from __future__ import annotations

import errno
from pathlib import Path

from huggingface_hub import constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.errors import HTTPError as TransportError  # type: ignore[attr-defined]  # of its HTTP client

from stageline_engine.core.errors import ModelSourceError
from stageline_engine.sources.hub_progress import shown

AGAIN = "start again, what came so far is kept"
_TOKEN = "set HF_TOKEN to a token that may read it"


def no_answer(error: Exception) -> str:
    """Why a hub was not asked, or did not answer the question."""
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set"
    if isinstance(error, HfHubHTTPError):
        return f"{constants.ENDPOINT} answers with status {error.response.status_code}"
    return f"{constants.ENDPOINT} does not answer"


def refused(model: str, what: str, error: HfHubHTTPError) -> ModelSourceError:
    """A status of 400 and above for ``what`` of ``model``: the repository, or one of its files."""
    status = error.response.status_code
    if isinstance(error, GatedRepoError):
        remedy = "access is granted on the repository's page; then set HF_TOKEN to a token of that account"
    elif isinstance(error, RepositoryNotFoundError):
        remedy = f"the hub {constants.ENDPOINT} has no repository {what} that may be read (private ones: {_TOKEN})"
    elif status in (401, 403):
        remedy = f"the hub refuses {what} (status {status}): {_TOKEN}"
    elif status == 404:
        remedy = f"the hub has no {what} at this commit any more: name another revision"
    elif status == 429:
        remedy = f"the hub limits requests (status 429): wait, or {_TOKEN}; what came so far is kept"
    else:
        remedy = f"the hub answers {what} with status {status}: {AGAIN}"
    return ModelSourceError("model", model, remedy)


def broke_off(model: str, error: Exception) -> ModelSourceError:
    """The network or the disk failed while something came."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ModelSourceError("model", model, f"the disk is full: free room in it, and {AGAIN}")
    first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return ModelSourceError("model", model, f"the download broke off ({first_line}): {AGAIN}")


def no_room(model: str, folder: Path, needed: int, free: int) -> ModelSourceError:
    """There is less room than what is still to come; in bytes."""
    return ModelSourceError(
        "model",
        model,
        f"{shown(needed)} are still to be fetched, and {folder} has room for {shown(free)}: free some, or set "
        "STAGELINE_CACHE to a folder on a larger disk",
    )


__all__ = ["AGAIN", "TransportError", "broke_off", "no_answer", "no_room", "refused"]
