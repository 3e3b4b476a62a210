"""Models that are on this machine: folders and GGUF files."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec

from stageline_engine.core.deployment import StageSpec
from stageline_engine.core.errors import ModelSourceError
from stageline_engine.sources import identity, store
from stageline_engine.sources.child import Child
from stageline_engine.sources.gguf_header import check_gguf
from stageline_engine.sources.integrity import INDEX, check_config, check_folder, weight_files

CONVERTER = "stageline_engine.sources.convert"
_TOKENIZER_FILES = ("tokenizer.model", "spiece.model", "vocab.json", "vocab.txt", "merges.txt", "tokenizer_config.json")
_COPIED = ("config.json", "generation_config.json", "chat_template.jinja", "chat_template.json", INDEX)


def from_folder(folder: Path, progress: store.Progress) -> Path:
    """A canonical folder for a transformers folder: itself, or one with a converted tokenizer and links to its weights.

    Raises:
        ModelSourceError: files are missing or damaged.
    """
    check_folder(folder)
    if (folder / "tokenizer.json").is_file():
        return folder
    tokenizer = [folder / name for name in _TOKENIZER_FILES if (folder / name).is_file()]
    if not tokenizer:
        raise ModelSourceError("model", str(folder), "this folder has no tokenizer.json and no other tokenizer's files")
    linked = weight_files(folder)
    copied = [folder / name for name in _COPIED if (folder / name).is_file()]
    sizes = ",".join(str(path.stat().st_size) for path in linked)
    key = identity.of_small_files(tokenizer + copied, str(folder.resolve()), sizes)

    def make(partial: Path, lock: int) -> None:
        progress("preparing the tokenizer (once): importing transformers")
        arguments = ["tokenizer", str(folder), str(partial)]
        Child(CONVERTER, arguments, None, progress, value=str(folder), inherit=[lock]).to_end()
        for path in copied:
            shutil.copyfile(path, partial / path.name)
        for path in linked:
            (partial / path.name).symlink_to(path.resolve())

    return store.prepared(identity.file_name(folder.name, key), make, progress)


def config_only(folder: Path, progress: store.Progress) -> Path:
    """``folder`` itself, if it has a valid config.json; nothing else is looked at.

    Raises:
        ModelSourceError: there is none.
    """
    check_config(folder)
    return folder


def for_ranks(folder: Path, progress: store.Progress) -> Path:
    """``folder`` itself, if its weights and config are complete: ranks need no tokenizer.

    Raises:
        ModelSourceError: files are missing or damaged.
    """
    check_folder(folder)
    return folder


def from_gguf(file: Path, progress: store.Progress, stage: StageSpec | None = None) -> Path:
    """A canonical folder with the content of a GGUF file, converted once and kept; see :func:`converted`.

    Raises:
        ModelSourceError: the file is not GGUF, is damaged, or holds an architecture that transformers cannot read.
    """
    check_gguf(file)
    name = identity.file_name(file.stem, identity.of_large_file(file))
    return converted(name, stage, lambda partial, lock: convert_gguf(file, partial, lock, progress, stage), progress)


def converted(name: str, stage: StageSpec | None, make: Callable[[Path, int], None], progress: store.Progress) -> Path:
    """The folder ``name`` where that is there; else, for a stage, one that has no tokenizer and only its weights."""
    if stage is None or store.found(name):
        return store.prepared(name, make, progress)
    return store.prepared(f"{name}-layers-{stage.start}-{stage.end}-of-{stage.num_stages}", make, progress)


def convert_gguf(
    file: Path, partial: Path, lock: int, progress: store.Progress, stage: StageSpec | None = None
) -> None:
    """Write what ``file`` holds, or a stage reads of it, into the folder ``partial``; minutes for a large model."""
    progress(f"converting {file.name} (once): importing torch and transformers")
    arguments = ["gguf", str(file.absolute()), str(partial)]
    if stage is not None:
        arguments.append(msgspec.json.encode(stage).decode())
    Child(CONVERTER, arguments, None, progress, value=str(file), inherit=[lock]).to_end()
