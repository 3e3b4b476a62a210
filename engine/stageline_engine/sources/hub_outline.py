"""``python -m stageline_engine.sources.hub_outline MODEL REPOSITORY REVISION all|config``: the child of hub.py.

A snapshot that huggingface_hub has whole in its cache is used as it is. Otherwise an outline is made: a folder with
the small files, and the weight files with their headers and holes for hub_fetch.py to fill.
"""

from __future__ import annotations

import fnmatch
import re
import shutil
import struct
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
from huggingface_hub import HfApi, ModelInfo, constants, snapshot_download
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import repo_folder_name

from stageline_engine.core.errors import ModelSourceError
from stageline_engine.sources import child, hub_errors, identity, integrity, store
from stageline_engine.sources.hub import Located
from stageline_engine.sources.hub_errors import TransportError
from stageline_engine.sources.hub_progress import line_bar, shown
from stageline_engine.sources.hub_ranges import read_range
from stageline_engine.sources.sparse_file import Record, SparseFile

WEIGHTS = ["*.safetensors"]
SMALL = ["*.json", "*.jinja", "*.txt", "tokenizer.model", "spiece.model"]
IGNORED = ["*/*", "consolidated*"]
"""Folders inside a repository (other formats), and the second copy of the weights that some have."""
ANSWER_SECONDS = 4.0
"""Time for the hub to say what a repository holds; past it the local cache must do."""
HEADERS_AT_ONCE = 8
_COMMIT = re.compile(r"[0-9a-f]{40}")


def work(arguments: Sequence[str], report: child.Reporter) -> Located:
    """Find or make the folder.

    Raises:
        ModelSourceError: see :func:`stageline_engine.sources.hub.from_hub`.
    """
    model, repository, revision, files = arguments
    find_local = _local_model if files == "all" else _local_config
    # A commit never changes, so that nothing needs to be asked.
    if _COMMIT.fullmatch(revision) and (folder := find_local(repository, revision)):
        return Located(str(folder), revision)
    try:
        info = HfApi().model_info(repository, revision=revision or None, timeout=ANSWER_SECONDS, files_metadata=True)
    except HFValidationError as error:
        raise ModelSourceError("model", model, "write hf://org/name or hf://org/name@revision") from error
    except RevisionNotFoundError as error:
        raise ModelSourceError("model", model, f"{repository} has no revision {revision!r} on the hub") from error
    except (TransportError, OfflineModeIsEnabled) as error:
        if isinstance(error, HfHubHTTPError) and error.response.status_code in (401, 403, 404):
            raise hub_errors.refused(model, repository, error) from error
        return _without_hub(model, repository, revision, find_local, error, report)
    assert info.sha is not None, "the hub names the commit of what it lists"
    try:
        folder = find_local(repository, info.sha) or _fetched(model, repository, info, files, report)
        _note_commit(repository, revision, info.sha)
    except HfHubHTTPError as error:
        raise hub_errors.refused(model, repository, error) from error
    except (TransportError, OSError) as error:
        raise hub_errors.broke_off(model, error) from error
    return Located(str(folder), info.sha)


def _local_model(repository: str, commit: str) -> Path | None:
    """Whole in huggingface_hub's cache, or an outline of ours."""
    try:
        snapshot = _snapshot(repository, commit, [*WEIGHTS, *SMALL])
        integrity.weight_files(snapshot)
        return snapshot
    except (LocalEntryNotFoundError, ModelSourceError):
        return store.found(identity.of_commit(repository, commit))


def _local_config(repository: str, commit: str) -> Path | None:
    try:
        snapshot = _snapshot(repository, commit, ["config.json"])
    except LocalEntryNotFoundError:
        return None
    return snapshot if (snapshot / "config.json").is_file() else None


def _snapshot(repository: str, commit: str, allowed: list[str]) -> Path:
    folder = snapshot_download(
        repository, revision=commit, local_files_only=True, allow_patterns=allowed, ignore_patterns=IGNORED
    )
    return Path(folder)


def _without_hub(
    model: str,
    repository: str,
    revision: str,
    find_local: Callable[[str, str], Path | None],
    why: Exception,
    report: child.Reporter,
) -> Located:
    reason = hub_errors.no_answer(why)
    commit = _noted_commit(repository, revision)
    folder = find_local(repository, commit) if commit else None
    if commit is None or folder is None:
        caches = f"{constants.HF_HUB_CACHE} or {store.root()}"
        raise ModelSourceError("model", model, f"{reason}, and there is no complete local copy in {caches}") from why
    report.progress(f"{reason}: using the local copy")
    return Located(str(folder), commit)


def _fetched(model: str, repository: str, info: ModelInfo, files: str, report: child.Reporter) -> Path:
    """From the hub: the config alone, or an outline."""
    assert info.sha is not None
    sizes = {sibling.rfilename: sibling.size or 0 for sibling in info.siblings or []}
    if files == "config":
        return _download(repository, info.sha, ["config.json"], sizes, report)
    weights = sorted(name for name in sizes if _matches(name, WEIGHTS))
    if not weights:
        raise ModelSourceError("model", model, "this repository has no safetensors files at its top level")
    commit = info.sha

    def make(partial: Path, lock: int) -> None:
        snapshot = _download(repository, commit, SMALL, sizes, report)
        for name in filter(lambda name: _matches(name, SMALL), sizes):
            shutil.copyfile(snapshot / name, partial / name)
        report.progress(f"reading the headers of {len(weights)} weight file{'s' if len(weights) != 1 else ''}")

        def outline(name: str) -> None:
            record = Record(repository=repository, commit=commit, name=name, size=sizes[name], etag="")
            _write_outline(partial / name, record, report)

        with ThreadPoolExecutor(HEADERS_AT_ONCE) as threads:
            list(threads.map(outline, weights))

    return store.prepared(identity.of_commit(repository, commit), make, report.progress)


def _download(repository: str, commit: str, allowed: list[str], sizes: dict[str, int], report: child.Reporter) -> Path:
    names = [name for name in sizes if _matches(name, allowed)]
    total = sum(sizes[name] for name in names)
    report.progress(f"fetching {len(names)} small file{'s' if len(names) != 1 else ''}, {shown(total)}")
    folder = snapshot_download(
        repository,
        revision=commit,
        allow_patterns=allowed,
        ignore_patterns=IGNORED,
        tqdm_class=line_bar(report.progress, total),
    )
    return Path(folder)


def _write_outline(path: Path, record: Record, report: child.Reporter) -> None:
    """A file of full size that holds its header; a length that makes no sense is left for the check of the folder."""
    got = bytearray()

    def take(at: int, data: bytes) -> None:
        got.extend(data)

    prefix = min(8, record.size)
    etag = read_range(record, (0, prefix), take, report.progress)
    record = msgspec.structs.replace(record, etag=etag)
    if prefix == 8:
        (length,) = struct.unpack("<Q", got)
        if length <= min(integrity.MAX_HEADER_BYTES, record.size - 8):
            read_range(record, (8, 8 + length), take, report.progress)
    file = SparseFile(path, record)
    try:
        file.write(0, bytes(got))
        file.keep((0, len(got)))
    finally:
        file.close()


def _note_commit(repository: str, revision: str, commit: str) -> None:
    """Write where the cache looks a name up when there is no hub (``refs/NAME``); a download of a commit does not."""
    if revision != commit:
        note = _note(repository, revision)
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(commit)


def _noted_commit(repository: str, revision: str) -> str | None:
    if _COMMIT.fullmatch(revision):
        return revision
    note = _note(repository, revision)
    return note.read_text() if note.is_file() else None


def _note(repository: str, revision: str) -> Path:
    folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repository, repo_type="model")
    return folder / "refs" / (revision or constants.DEFAULT_REVISION)


def _matches(name: str, patterns: list[str]) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for pattern in patterns) and not any(
        fnmatch.fnmatch(name, pattern) for pattern in IGNORED
    )


if __name__ == "__main__":
    sys.exit(child.main(work))
