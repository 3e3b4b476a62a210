"""``python -m stageline_engine.sources.hub_download MODEL REPOSITORY REVISION all|config``: the child of hub.py."""

from __future__ import annotations

import fnmatch
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, ModelInfo, constants, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    IncompleteSnapshotError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.errors import HTTPError as TransportError  # type: ignore[attr-defined]  # of its HTTP client
from tqdm.auto import tqdm

from stageline_engine.core.errors import ModelSourceError
from stageline_engine.sources import child

ALLOWED = ["*.safetensors", "*.json", "*.jinja", "*.txt", "tokenizer.model", "spiece.model"]
IGNORED = ["*/*", "consolidated*"]
"""Folders inside a repository (other formats), and the second copy of the weights that some have."""
ANSWER_SECONDS = 4.0
"""Time for the hub to say what a repository holds; past it the local cache must do."""
REPORT_SECONDS = 5.0


def work(arguments: Sequence[str], report: child.Reporter) -> str:
    """Download; returns the snapshot's folder.

    Raises:
        ModelSourceError: see :func:`stageline_engine.sources.hub.from_hub`.
    """
    model, repository, revision, files = arguments
    allowed = ALLOWED if files == "all" else ["config.json"]
    try:
        info = HfApi().model_info(repository, revision=revision or None, timeout=ANSWER_SECONDS, files_metadata=True)
    except GatedRepoError as error:
        remedy = "access is granted on the repository's page; then set HF_TOKEN to a token of that account"
        raise ModelSourceError("model", model, remedy) from error
    except RevisionNotFoundError as error:
        raise ModelSourceError("model", model, f"{repository} has no revision {revision!r} on the hub") from error
    except RepositoryNotFoundError as error:
        remedy = (
            f"the hub {constants.ENDPOINT} has no repository {repository} that may be read (private ones: HF_TOKEN)"
        )
        raise ModelSourceError("model", model, remedy) from error
    except HFValidationError as error:
        raise ModelSourceError("model", model, "write hf://org/name or hf://org/name@revision") from error
    except (TransportError, OfflineModeIsEnabled) as error:
        return _cached(model, repository, revision, allowed, error, report)
    return _fetched(model, repository, revision, allowed, info, report)


def _cached(
    model: str, repository: str, revision: str, allowed: list[str], why: Exception, report: child.Reporter
) -> str:
    reason = (
        "HF_HUB_OFFLINE is set" if isinstance(why, OfflineModeIsEnabled) else f"{constants.ENDPOINT} does not answer"
    )
    try:
        folder = snapshot_download(
            repository,
            revision=revision or None,
            local_files_only=True,
            allow_patterns=allowed,
            ignore_patterns=IGNORED,
        )
    except IncompleteSnapshotError as error:
        raise ModelSourceError("model", model, f"{reason}, and the local copy is incomplete") from error
    except LocalEntryNotFoundError as error:
        raise ModelSourceError("model", model, f"{reason}, and there is no local copy in {_cache()}") from error
    report.progress(f"{reason}: using the local copy")
    return folder


def _fetched(
    model: str, repository: str, revision: str, allowed: list[str], info: ModelInfo, report: child.Reporter
) -> str:
    files = [sibling for sibling in info.siblings or [] if _wanted(sibling.rfilename, allowed)]
    if allowed is ALLOWED and not any(sibling.rfilename.endswith(".safetensors") for sibling in files):
        raise ModelSourceError("model", model, "this repository has no safetensors files at its top level")
    total = sum(sibling.size or 0 for sibling in files)
    report.progress(f"fetching {len(files)} files, {total / 1e9:.2f} GB, those that are not in {_cache()} yet")
    assert info.sha is not None, "the hub names the commit of what it lists"
    try:
        folder = snapshot_download(
            repository,
            revision=info.sha,
            allow_patterns=allowed,
            ignore_patterns=IGNORED,
            tqdm_class=_line_bar(report, total),
        )
        _note_commit(folder, revision, info.sha)
        return folder
    except (TransportError, OSError) as error:
        first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        remedy = f"the download broke off ({first_line}): start again, what came so far is kept"
        raise ModelSourceError("model", model, remedy) from error


def _note_commit(folder: str, revision: str, commit: str) -> None:
    """Write where the cache looks a name up when there is no hub (``refs/NAME``); a download of a commit does not."""
    if revision != commit:
        note = Path(folder).parents[1] / "refs" / (revision or constants.DEFAULT_REVISION)
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(commit)


def _wanted(name: str, allowed: list[str]) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for pattern in allowed) and not any(
        fnmatch.fnmatch(name, pattern) for pattern in IGNORED
    )


def _cache() -> str:
    return constants.HF_HUB_CACHE


def _line_bar(report: child.Reporter, total: int) -> type[tqdm]:  # type: ignore[type-arg]
    """A progress bar that draws nothing and says a line every few seconds."""

    class LineBar(tqdm):  # type: ignore[type-arg]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self._next = time.monotonic() + REPORT_SECONDS
            super().__init__(*args, **kwargs)

        def display(self, msg: str | None = None, pos: int | None = None) -> None:
            """Draw nothing."""

        def update(self, n: float | None = 1) -> bool | None:
            """Count, and report now and then."""
            changed = super().update(n)
            if self.unit == "B" and time.monotonic() >= self._next:
                self._next = time.monotonic() + REPORT_SECONDS
                report.progress(f"fetched {self.n / 1e9:.2f} of {total / 1e9:.2f} GB")
            return changed

    return LineBar


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    sys.exit(child.main(work))
