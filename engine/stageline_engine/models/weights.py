"""Reading the safetensors files of a canonical folder: headers and sizes first, then slice by slice.

Knows files and tensors, nothing of models.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from safetensors import SafetensorError, safe_open

from stageline_engine.core.errors import ModelSourceError, UnsupportedModelError
from stageline_engine.sources import integrity
from stageline_engine.sources.sparse_file import Presence

_ITEM_BYTES = {"F64": 8, "F32": 4, "BF16": 2, "F16": 2}


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies."""

    file: Path
    shape: tuple[int, ...]
    dtype: str
    """As safetensors writes it: ``F32``, ``BF16``, …"""
    span: tuple[int, int]
    """Bytes ``[begin, end)`` of the file."""

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


class Checkpoint:
    """The tensors of a model folder. A context manager: files stay open inside, and what was read outlives it.

    Raises:
        ModelSourceError: a file is missing, damaged or not as long as its header says; names the file.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        self.bytes_read = 0
        """Bytes of all slices that were read."""
        headers = {file: integrity.read_header(file) for file in integrity.weight_files(self.folder)}
        self.tensors = {
            name: StoredTensor(file, tuple(entry.shape), entry.dtype, header.span(name))
            for file, header in headers.items()
            for name, entry in header.tensors.items()
        }
        self._presence = {file: Presence(file) for file in headers}
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
        """Read ``tensor[index]`` and nothing else of it; the result may lie in the file's mapping, so copy it.

        Waits while the tensor is being fetched.

        Raises:
            UnsupportedModelError: the tensor is not of a float type that models here have.
            ModelSourceError: the file cannot be read any more, or the tensor was not fetched.
        """
        stored = self.tensors[name]
        if stored.dtype not in _ITEM_BYTES:
            raise UnsupportedModelError(
                "model", str(stored.file), f"{name} is {stored.dtype}; give float32, bfloat16 or float16 weights"
            )
        self._presence[stored.file].wait_for(stored.span, name)
        try:
            if stored.file not in self._open:
                self._open[stored.file] = _open(stored.file)
            tensor: torch.Tensor = self._open[stored.file].get_slice(name)[index or ...]
        except (SafetensorError, OSError) as error:
            raise ModelSourceError("model", str(stored.file), f"it cannot be read ({error}); fetch it again") from error
        self.bytes_read += tensor.numel() * _ITEM_BYTES[stored.dtype]
        return tensor


def _open(file: Path) -> Any:
    handle: Any = safe_open(file, framework="pt")
    return handle.__enter__()
