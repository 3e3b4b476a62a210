"""``hf://org/name[@revision]``: a repository of a Hugging Face hub, through huggingface_hub and its cache.

What asks the hub runs in processes of its own (hub_outline.py, hub_fetch.py), so that Ctrl-C ends it at once; what
came so far is used when it is started again. Weights are not fetched here, but by those who run a stage: fetch.py.
"""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from stageline_engine.core.errors import ModelSourceError
from stageline_engine.sources import store
from stageline_engine.sources.child import Child

SCHEME = "hf://"
OUTLINER = "stageline_engine.sources.hub_outline"
_NAME = re.compile(r"(?P<repository>[\w.-]+(?:/[\w.-]+)?)(?:@(?P<revision>[\w./-]+))?")


class Located(msgspec.Struct, frozen=True):
    """A folder on this machine, and the commit whose files it has."""

    folder: str
    commit: str


class HubModel(msgspec.Struct, frozen=True):
    """What a name of a hub means."""

    folder: Path
    name: str
    """The repository's name without its organisation."""
    pinned: str
    """``hf://org/name@commit``."""


def from_hub(model: str, progress: store.Progress, *, with_weights: bool = True) -> HubModel:
    """Find a model that is here, or fetch its small files and the headers of its weight files.

    Args:
        with_weights: False promises only a config.json.

    Raises:
        ModelSourceError: no such repository or revision, no access, or neither a hub nor a local copy.
    """
    match = _NAME.fullmatch(model.removeprefix(SCHEME))
    if match is None:
        raise ModelSourceError("model", model, "write hf://org/name or hf://org/name@revision")
    repository, revision = match["repository"], match["revision"] or ""
    progress(f"asking the hub for {repository}" + (f" at {revision}" if revision else ""))
    files = "all" if with_weights else "config"
    arguments = [model, repository, revision, files]
    found = Child(OUTLINER, arguments, Located, progress, value=model, online=True).to_end()
    return HubModel(Path(found.folder), repository.rpartition("/")[2], f"{SCHEME}{repository}@{found.commit}")
