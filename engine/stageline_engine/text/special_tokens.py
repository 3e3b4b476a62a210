"""What a model's folder says about special tokens: names, ids, and which ids end a sequence. Reads JSON files only."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from stageline_engine.core.errors import ModelSourceError

NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
"""Names under which tokenizer_config.json keeps special tokens, and under which chat templates see them."""

JsonObject = Mapping[str, object]


def read_json(folder: Path, name: str) -> JsonObject:
    """The object in ``folder/name``; empty when there is no such file.

    Raises:
        ModelSourceError: the file is not a JSON object.
    """
    path = folder / name
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return {}
    try:
        return msgspec.json.decode(content, type=dict[str, object])
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ModelSourceError("model", str(path), f"the file is damaged, fetch it again ({error})") from error


def named_tokens(config: JsonObject, fallback: JsonObject) -> dict[str, str]:
    """Special tokens by name, e.g. ``{"eos_token": "</s>"}``.

    Args:
        config: tokenizer_config.json.
        fallback: special_tokens_map.json, where older folders keep them.
    """
    found: dict[str, str] = {}
    for name in NAMED_TOKENS:
        for source in (config, fallback):
            text = _token_text(source.get(name))
            if text is not None:
                found[name] = text
                break
    return found


def extra_tokens(config: JsonObject, fallback: JsonObject) -> list[str]:
    """Special tokens without a name of their own, in the order in which they are listed."""
    found: list[str] = []
    for key in ("additional_special_tokens", "extra_special_tokens"):
        listed = config.get(key) or fallback.get(key)
        values = list(listed.values()) if isinstance(listed, dict) else listed
        if isinstance(values, list):
            found += [text for value in values if (text := _token_text(value)) is not None]
    return found


def eos_ids_of_configs(folder: Path) -> tuple[int, ...]:
    """Ids that end a sequence: generation_config.json's, else config.json's (text part included); may be empty."""
    config = read_json(folder, "config.json")
    nested = config.get("text_config")
    sources: list[JsonObject] = [read_json(folder, "generation_config.json"), config]
    if isinstance(nested, dict):
        sources.append(nested)
    for source in sources:
        ids = source.get("eos_token_id")
        if isinstance(ids, int):
            return (ids,)
        if isinstance(ids, list) and ids:
            return tuple(int(one) for one in ids)
    return ()


def model_vocab_size(folder: Path) -> int:
    """Rows of the model's embedding as config.json says; 0 when it does not."""
    config = read_json(folder, "config.json")
    nested = config.get("text_config")
    for source in (config, nested if isinstance(nested, dict) else {}):
        size = source.get("vocab_size")
        if isinstance(size, int):
            return size
    return 0


def _token_text(value: object) -> str | None:
    # Written either as the text itself or as an object with the text and its matching rules.
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None
