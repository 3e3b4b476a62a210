"""The bytes that one token stands for; a token may be part of a character, so its text alone would lose them."""

from __future__ import annotations

import re
from collections.abc import Mapping

BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
METASPACE = "▁"


def decoder_types(decoder: object) -> frozenset[str]:
    """Names of all decoders in the ``decoder`` part of a tokenizer.json, nested ones included."""
    found: set[str] = set()
    if isinstance(decoder, Mapping):
        kind = decoder.get("type")
        if isinstance(kind, str):
            found.add(kind)
        nested = decoder.get("decoders")
        if isinstance(nested, list):
            for one in nested:
                found |= decoder_types(one)
    return frozenset(found)


def _byte_of_character() -> dict[str, int]:
    # Byte-level vocabularies write a byte as its Latin-1 character where that is printable and not a space, and the
    # others, in ascending order, as the characters from U+0100.
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    table = {chr(byte): byte for byte in printable}
    table.update({chr(0x100 + index): byte for index, byte in enumerate(others)})
    return table


BYTE_OF_CHARACTER = _byte_of_character()


def piece_bytes(piece: str, decoders: frozenset[str]) -> bytes:
    """Bytes of a vocabulary entry that is not an added token.

    Args:
        piece: the entry as the vocabulary writes it.
        decoders: see :func:`decoder_types`.
    """
    if "ByteLevel" in decoders:
        try:
            return bytes(BYTE_OF_CHARACTER[character] for character in piece)
        except KeyError:
            return piece.encode()
    if "ByteFallback" in decoders and (match := BYTE_TOKEN.fullmatch(piece)):
        return bytes([int(match[1], 16)])
    return piece.replace(METASPACE, " ").encode()


def shown_text(content: bytes) -> str:
    """Text of a token for ``logprobs``: the characters, or ``bytes:\\xe2\\x82`` when they are not whole."""
    try:
        return content.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in content)
