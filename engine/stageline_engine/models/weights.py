"""Reading the safetensors files of a canonical folder: checked from headers and sizes first, then slice by slice.

Knows files and tensors, nothing of models.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from safetensors import SafetensorError, safe_open

from stageline_engine.core.errors import ModelSourceError, UnsupportedModelError

INDEX_NAME = "model.safetensors.index.json"

_ITEM_BYTES = {"F64": 8, "F32": 4, "BF16": 2, "F16": 2}
_MAX_HEADER_BYTES = 100_000_000
"""safetensors' own limit."""


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies."""

    file: Path
    shape: tuple[int, ...]
    dtype: str
    """As safetensors writes it: ``F32``, ``BF16``, …"""

    @property
    def item_bytes(self) -> int:
        """Bytes of one element."""
        return _ITEM_BYTES[self.dtype]

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


class Checkpoint:
    """The tensors of a model folder. A context manager: files stay open inside, and tensors are copies.

    Raises:
        ModelSourceError: a file is missing, damaged or shorter than its header says; names the file.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        self.bytes_read = 0
        """Bytes of all slices that were read."""
        self.tensors: dict[str, StoredTensor] = {}
        for file, promised in _files(self.folder).items():
            tensors = _read_header(file)
            missing = promised - tensors.keys()
            if missing:
                raise _damaged(file, f"it lacks {min(missing)} that {INDEX_NAME} promises")
            self.tensors.update(tensors)
        # safe_open has no type of its own.
        self._open: dict[Path, Any] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._open.values():
            handle.__exit__(kind, error, trace)
        self._open.clear()

    def read(self, name: str, index: tuple[slice, ...]) -> torch.Tensor:
        """Read ``tensor[index]``; nothing else of it is copied.

        Raises:
            UnsupportedModelError: the tensor is not of a float type that models here have.
            ModelSourceError: the file cannot be read any more.
        """
        stored = self.tensors[name]
        if stored.dtype not in _ITEM_BYTES:
            raise UnsupportedModelError(
                "model", str(stored.file), f"{name} is {stored.dtype}; give float32, bfloat16 or float16 weights"
            )
        try:
            handle = self._open.get(stored.file)
            if handle is None:
                handle = self._open[stored.file] = _open(stored.file)
            tensor: torch.Tensor = handle.get_slice(name)[index or ...]
        except (SafetensorError, OSError) as error:
            raise _damaged(stored.file, str(error)) from error
        self.bytes_read += tensor.numel() * stored.item_bytes
        return tensor


def _open(file: Path) -> Any:
    handle: Any = safe_open(file, framework="pt")
    return handle.__enter__()


def _files(folder: Path) -> Mapping[Path, set[str]]:
    """The weight files of a folder, and the tensors that the index promises of each."""
    index = folder / INDEX_NAME
    if not index.exists():
        files = sorted(folder.glob("*.safetensors"))
        if not files:
            raise ModelSourceError("model", str(folder), "it has no *.safetensors file; fetch the model again")
        return {file: set() for file in files}
    try:
        weight_map = json.loads(index.read_text())["weight_map"]
        promised: dict[Path, set[str]] = {}
        for tensor, name in weight_map.items():
            promised.setdefault(folder / name, set()).add(tensor)
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise _damaged(index, f"it is no safetensors index ({error})") from error
    return promised


def _read_header(file: Path) -> dict[str, StoredTensor]:
    """Parse a file's header, and compare the file's size with it."""
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            start = stream.read(8)
            if len(start) < 8:
                raise _damaged(file, "it is shorter than a header")
            (length,) = struct.unpack("<Q", start)
            if length > min(_MAX_HEADER_BYTES, size - 8):
                raise _damaged(file, f"its header should have {length} bytes, the file has {size}")
            header = json.loads(stream.read(length))
        tensors = {
            name: StoredTensor(file, tuple(entry["shape"]), entry["dtype"])
            for name, entry in header.items()
            if name != "__metadata__"
        }
        end = max((entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"), default=0)
    except FileNotFoundError:
        raise _damaged(file, "it is missing") from None
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise _damaged(file, f"its header cannot be read ({error})") from error
    if size != 8 + length + end:
        raise _damaged(file, f"it has {size} bytes and should have {8 + length + end}")
    return tensors


def _damaged(file: Path, what: str) -> ModelSourceError:
    return ModelSourceError("model", str(file), f"{what}; fetch this file again")
