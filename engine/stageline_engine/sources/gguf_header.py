"""Is a GGUF file complete? Walks its header and compares sizes, in well under a second, without torch.

Layout (little endian): magic, version, number of tensors, number of metadata entries; the entries (key, type, value);
the tensor table (name, dimensions, type, offset); padding to the alignment; data.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

from stageline_engine.core.errors import ModelSourceError

VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32
MAX_ENTRIES = 1 << 20
"""Tensors or metadata entries; more only a damaged header asks for."""

_STRING, _ARRAY = 8, 9
_WIDTHS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of a metadata value, by its type."""

BLOCKS = {
    0: (1, 4), 1: (1, 2), 30: (1, 2), 28: (1, 8), 24: (1, 1), 25: (1, 2), 26: (1, 4), 27: (1, 8),
    2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 9: (32, 40), 20: (32, 18), 39: (32, 17),
    10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292),
    16: (256, 66), 17: (256, 74), 18: (256, 98), 19: (256, 50), 21: (256, 110), 22: (256, 82), 23: (256, 136),
    29: (256, 56), 34: (256, 54), 35: (256, 66), 40: (64, 36), 41: (128, 18),
}  # fmt: skip
"""Elements and bytes of a block, by tensor type. The gguf package knows them, but brings numpy to the head."""


class _Damaged(Exception):
    """The header does not make sense."""


def check_gguf(file: Path) -> frozenset[int]:
    """Refuse what is not a GGUF file, or not a whole one; the types of its tensors, as GGUF numbers them.

    Raises:
        ModelSourceError: names the file and what is wrong.
    """
    with file.open("rb") as opened:
        head = opened.read(24)
        if len(head) < 24 or head[:4] != b"GGUF":
            raise ModelSourceError("model", str(file), "this is not a GGUF file: give a model's folder or a GGUF file")
        version, num_tensors, num_entries = struct.unpack("<IQQ", head[4:])
        if version not in VERSIONS:
            raise ModelSourceError("model", str(file), f"GGUF version {version} is not readable: versions 2 and 3 are")
        try:
            with mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
                walker = _Walker(data)
                expected, actual = walker.expected_size(num_tensors, num_entries), len(data)
        except (struct.error, IndexError, _Damaged) as error:
            raise ModelSourceError("model", str(file), "the file is damaged or cut off in its header") from error
    if actual < expected:
        remedy = f"the file is damaged: it has {actual} bytes instead of {expected}; fetch it again"
        raise ModelSourceError("model", str(file), remedy)
    return frozenset(walker.types)


class _Walker:
    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._at = 24
        self.types: set[int] = set()

    def expected_size(self, num_tensors: int, num_entries: int) -> int:
        if max(num_tensors, num_entries) > MAX_ENTRIES:
            raise _Damaged
        alignment = DEFAULT_ALIGNMENT
        for _ in range(num_entries):
            key = self._bytes()
            kind = self._number("<I")
            if key == b"general.alignment" and kind == 4:
                alignment = self._number("<I")
            else:
                self._skip(kind)
        ends = [self._tensor_end() for _ in range(num_tensors)]
        if alignment < 1 or self._at > len(self._data):
            raise _Damaged
        return -(-self._at // alignment) * alignment + max(ends, default=0)

    def _tensor_end(self) -> int:
        """Where the tensor's data ends, counted from the beginning of the data."""
        self._bytes()
        elements = 1
        for _ in range(self._number("<I")):
            elements *= self._number("<Q")
        kind = self._number("<I")
        self.types.add(kind)
        offset = self._number("<Q")
        # Of a type that is newer than this table only the beginning is known; its converter will refuse it.
        block, width = BLOCKS.get(kind, (1, 0))
        return offset + elements // block * width

    def _skip(self, kind: int) -> None:
        if kind == _STRING:
            self._bytes()
        elif kind == _ARRAY:
            inner, count = self._number("<I"), self._number("<Q")
            if inner in _WIDTHS:
                self._at += _WIDTHS[inner] * count
            elif inner == _STRING:
                for _ in range(count):
                    self._at += 8 + struct.unpack_from("<Q", self._data, self._at)[0]
            else:
                raise _Damaged
        elif kind in _WIDTHS:
            self._at += _WIDTHS[kind]
        else:
            raise _Damaged

    def _bytes(self) -> bytes:
        length = self._number("<Q")
        self._at += length
        return self._data[self._at - length : self._at]

    def _number(self, form: str) -> int:
        (value,) = struct.unpack_from(form, self._data, self._at)
        self._at += struct.calcsize(form)
        return int(value)
