"""``hf://org/name[@revision]``: a repository of a Hugging Face hub, through huggingface_hub and its cache.

The download runs in a process of its own (hub_download.py), so that Ctrl-C ends it at once; what came so far is used
when it is started again.
"""

from __future__ import annotations

import re
from pathlib import Path

from stageline_engine.core.errors import ModelSourceError
from stageline_engine.sources import child, store

SCHEME = "hf://"
DOWNLOADER = "stageline_engine.sources.hub_download"
_NAME = re.compile(r"(?P<repository>[\w.-]+(?:/[\w.-]+)?)(?:@(?P<revision>[\w./-]+))?")


def from_hub(model: str, progress: store.Progress, *, with_weights: bool = True) -> tuple[Path, str]:
    """Fetch what is not here yet; returns the snapshot's folder and the repository's name without its organisation.

    Raises:
        ModelSourceError: no such repository or revision, no access, or neither a hub nor a cached copy.
    """
    match = _NAME.fullmatch(model.removeprefix(SCHEME))
    if match is None:
        raise ModelSourceError("model", model, "write hf://org/name or hf://org/name@revision")
    repository, revision = match["repository"], match["revision"] or ""
    progress(f"asking the hub for {repository}" + (f" at {revision}" if revision else ""))
    files = "all" if with_weights else "config"
    folder = child.run(DOWNLOADER, [model, repository, revision, files], str, progress, value=model, online=True)
    return Path(folder), repository.rpartition("/")[2]
