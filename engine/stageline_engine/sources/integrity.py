"""Are a folder's files complete? Reads headers and sizes only: milliseconds, no torch, for any size of model."""

from __future__ import annotations

import json
import math
import re
import struct
from pathlib import Path

import msgspec

from stageline_engine.core.errors import ModelSourceError

INDEX = "model.safetensors.index.json"
MAX_HEADER_BYTES = 100 * 1024 * 1024
"""The safetensors format's own limit."""

_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "U16": 16, "I16": 16, "F16": 16, "BF16": 16,
    "U32": 32, "I32": 32, "F32": 32, "U64": 64, "I64": 64, "F64": 64, "C64": 64, "F4": 4,
}  # fmt: skip
_SHARD = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.safetensors")


class HeaderTensor(msgspec.Struct):
    """A tensor as the header of its file describes it."""

    dtype: str
    """As safetensors writes it: ``F32``, ``BF16``, …"""
    shape: list[int]
    data_offsets: tuple[int, int]
    """Bytes ``[begin, end)`` behind the header, of which :class:`WeightHeader` knows the length."""


class WeightHeader(msgspec.Struct, frozen=True):
    """The header of a safetensors file."""

    length: int
    """Bytes of it; the data begin there."""
    tensors: dict[str, HeaderTensor]

    def span(self, name: str) -> tuple[int, int]:
        """Bytes ``[begin, end)`` of a tensor, counted from the beginning of the file."""
        begin, end = self.tensors[name].data_offsets
        return self.length + begin, self.length + end


def check_folder(folder: Path) -> None:
    """Refuse a folder that cannot be loaded.

    Raises:
        ModelSourceError: names the file that is missing, truncated or damaged.
    """
    check_config(folder)
    tensors = {path.name: read_header(path).tensors for path in weight_files(folder)}
    index = folder / INDEX
    if index.is_file():
        for tensor, shard in _weight_map(index).items():
            if tensor not in tensors[shard]:
                raise ModelSourceError("model", str(folder / shard), f"the file lacks the tensor {tensor} of {INDEX}")


def stored_elements(folder: Path) -> int:
    """Numbers in all tensors of a folder that :func:`check_folder` has passed."""
    return sum(
        math.prod(tensor.shape) for path in weight_files(folder) for tensor in read_header(path).tensors.values()
    )


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a folder: those of its index, or all that it has.

    Raises:
        ModelSourceError: there are none, or one of several is missing.
    """
    index = folder / INDEX
    if index.is_file():
        names = sorted(set(_weight_map(index).values()))
    else:
        names = sorted(path.name for path in folder.glob("*.safetensors"))
        if "model.safetensors" in names:
            names = ["model.safetensors"]
        names = sorted(set(names) | {shard for name in names for shard in _siblings(name)})
    for name in names:
        if not (folder / name).is_file():
            raise ModelSourceError("model", str(folder / name), "this file of the model is missing: fetch it again")
    if not names:
        raise ModelSourceError("model", str(folder), _no_weights(folder))
    return [folder / name for name in names]


def read_header(path: Path) -> WeightHeader:
    """The header of a safetensors file, checked against the file's size.

    Raises:
        ModelSourceError: the file is truncated or damaged.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(8)
        if len(prefix) < 8:
            raise _damaged(path, f"it has only {size} bytes")
        (length,) = struct.unpack("<Q", prefix)
        if length > MAX_HEADER_BYTES:
            raise _damaged(path, "it does not begin with a safetensors header")
        if length + 8 > size:
            raise _damaged(path, f"its header needs {length + 8} bytes and it has {size}")
        header = file.read(length)
    try:
        fields = msgspec.json.decode(header, type=dict[str, msgspec.Raw])
        fields.pop("__metadata__", None)
        tensors = {name: msgspec.json.decode(raw, type=HeaderTensor) for name, raw in fields.items()}
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _damaged(path, "its header is not valid JSON of the safetensors format") from error
    expected = 8 + length + max((tensor.data_offsets[1] for tensor in tensors.values()), default=0)
    if size != expected:
        raise _damaged(path, f"it has {size} bytes instead of {expected}")
    for name, tensor in tensors.items():
        begin, end = tensor.data_offsets
        bits = _BITS.get(tensor.dtype)
        if begin < 0 or end < begin or (bits and (end - begin) * 8 != bits * math.prod(tensor.shape)):
            raise _damaged(path, f"the place of the tensor {name} does not fit its shape")
    return WeightHeader(8 + length, tensors)


def check_config(folder: Path) -> None:
    """Refuse a folder without a transformers config.

    Raises:
        ModelSourceError: config.json is missing or damaged.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise ModelSourceError("model", str(folder), "this folder has no config.json: give a model's folder")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ModelSourceError("model", str(path), f"the file is not valid JSON ({error})") from error
    if not isinstance(config, dict) or "model_type" not in config:
        raise ModelSourceError("model", str(path), "the file is not a transformers config: it has no model_type")


def _weight_map(index: Path) -> dict[str, str]:
    try:
        content = msgspec.json.decode(index.read_bytes(), type=dict[str, msgspec.Raw])
        weight_map = msgspec.json.decode(content["weight_map"], type=dict[str, str])
    except (msgspec.DecodeError, KeyError) as error:
        raise ModelSourceError("model", str(index), "the file is not a valid safetensors index") from error
    for name in set(weight_map.values()):
        if "/" in name or name.startswith("."):
            raise ModelSourceError("model", str(index), f"it names the file {name!r}, which is outside of the folder")
    return weight_map


def _siblings(name: str) -> list[str]:
    match = _SHARD.fullmatch(name)
    if match is None:
        return []
    stem, _, count = match.groups()
    return [f"{stem}-{number:05d}-of-{count}.safetensors" for number in range(1, int(count) + 1)]


def _no_weights(folder: Path) -> str:
    if any(folder.glob("*.gguf")):
        return "this folder has a GGUF file and no safetensors: give the path of the GGUF file itself"
    if any(folder.glob("*.bin")) or any(folder.glob("*.pt*")):
        return "this folder has its weights in PyTorch's own format: only safetensors and GGUF are read"
    return "this folder has no *.safetensors file"


def _damaged(path: Path, why: str) -> ModelSourceError:
    return ModelSourceError("model", str(path), f"the file is damaged: {why}; fetch it again")
