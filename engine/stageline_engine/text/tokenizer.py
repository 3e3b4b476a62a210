"""Text to token ids and back, as transformers' fast tokenizers do it, from a model's canonical folder.

Only the `tokenizers` library is used: importing transformers costs seconds and a gigabyte of address space.
Safe to use from several threads once made.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import tokenizers

from stageline_engine.core.errors import ModelSourceError
from stageline_engine.text.chat_template import ChatTemplate, read_chat_template
from stageline_engine.text.special_tokens import (
    JsonObject,
    eos_ids_of_configs,
    extra_tokens,
    model_vocab_size,
    named_tokens,
    read_json,
)
from stageline_engine.text.token_bytes import decoder_types, piece_bytes, shown_text

NORMALIZER_CONTRACTION = 4
"""Most characters that a Unicode normalizer makes one of (composition of a base with its marks)."""


class Tokenizer:
    """The tokenizer and chat template of a model folder.

    Raises:
        ModelSourceError: tokenizer.json is missing or damaged, or the chat template does not compile.
    """

    def __init__(self, folder: str | Path) -> None:
        folder = Path(folder)
        self._backend = _load_backend(folder)
        config = read_json(folder, "tokenizer_config.json")
        fallback = read_json(folder, "special_tokens_map.json")
        self.special_tokens = named_tokens(config, fallback)
        """Special tokens by name, e.g. ``{"eos_token": "</s>"}``."""
        self._add_special_tokens(config, fallback)
        self.chat_template: ChatTemplate | None = read_chat_template(folder, config, self.special_tokens)
        """None when the model has none."""
        self.eos_token_ids = eos_token_ids(folder)
        """Ids that end a sequence; may be empty."""
        added = self._backend.get_added_tokens_decoder()
        self._added = {index: token.content for index, token in added.items()}
        self.special_ids = frozenset(index for index, token in added.items() if token.special)
        """Ids that ``skip_special_tokens`` leaves out."""
        vocabulary = self._backend.get_vocab(with_added_tokens=True)
        self.num_tokens = max(vocabulary.values(), default=-1) + 1
        """One more than the largest token id that has a text."""
        self.vocab_size = model_vocab_size(folder) or self.num_tokens
        """One more than the largest id that the model takes; may be more than :attr:`num_tokens` (padded rows), or
        less (tokens that the model's embedding has no row for)."""
        self.most_characters_per_token = max(map(len, vocabulary), default=1)
        """A text of more than this many times N characters has more than N tokens."""
        if self._backend.normalizer is not None:
            self.most_characters_per_token *= NORMALIZER_CONTRACTION
        self._decoders = decoder_types(msgspec.json.decode(self._backend.to_str())["decoder"])

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Token ids of ``text``; with the model's own beginning and end tokens unless told otherwise.

        Lets other threads run meanwhile.
        """
        return list(self._backend.encode_batch_fast([text], add_special_tokens=add_special_tokens)[0].ids)

    def decode(self, token_ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """Text of ``token_ids``. Ids without a text count as nothing; bytes that are no character become U+FFFD."""
        return self._backend.decode(token_ids, skip_special_tokens=skip_special_tokens)

    def token_piece(self, token_id: int) -> str:
        """The token as the vocabulary writes it; empty for an id without a text."""
        return self._backend.id_to_token(token_id) or ""

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that the token stands for, which may be part of a character."""
        if (added := self._added.get(token_id)) is not None:
            return added.encode()
        return piece_bytes(self.token_piece(token_id), self._decoders)

    def token_text(self, token_id: int) -> str:
        """Text of one token for ``logprobs``; see :func:`stageline_engine.text.token_bytes.shown_text`."""
        return shown_text(self.token_bytes(token_id))

    def _add_special_tokens(self, config: JsonObject, fallback: JsonObject) -> None:
        declared = config.get("added_tokens_decoder")
        known = {token.content for token in self._backend.get_added_tokens_decoder().values()}
        if isinstance(declared, dict):
            for _, entry in sorted(declared.items(), key=lambda item: int(item[0])):
                if isinstance(entry, dict) and isinstance(entry.get("content"), str) and entry["content"] not in known:
                    rules = {
                        key: bool(entry[key]) for key in ("lstrip", "rstrip", "normalized", "special") if key in entry
                    }
                    self._backend.add_tokens([tokenizers.AddedToken(entry["content"], **rules)])
        special = {token.content for token in self._backend.get_added_tokens_decoder().values() if token.special}
        for text in [*self.special_tokens.values(), *extra_tokens(config, fallback)]:
            if text not in special:
                self._backend.add_special_tokens([tokenizers.AddedToken(text, special=True, normalized=False)])


def eos_token_ids(folder: str | Path) -> tuple[int, ...]:
    """Ids that end a sequence: generation_config.json's, else config.json's, else the tokenizer's end token's.

    Raises:
        ModelSourceError: a file of the folder is damaged.
    """
    folder = Path(folder)
    if ids := eos_ids_of_configs(folder):
        return ids
    names = named_tokens(read_json(folder, "tokenizer_config.json"), read_json(folder, "special_tokens_map.json"))
    if "eos_token" not in names or not (folder / "tokenizer.json").exists():
        return ()
    index = _load_backend(folder).token_to_id(names["eos_token"])
    return () if index is None else (index,)


def _load_backend(folder: Path) -> tokenizers.Tokenizer:
    path = folder / "tokenizer.json"
    if not path.exists():
        raise ModelSourceError("model", str(folder), "the folder has no tokenizer.json")
    try:
        backend = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises Exception itself
        raise ModelSourceError("model", str(path), f"the file is damaged, fetch it again ({error})") from error
    # Cutting and filling up belong to training; a server must see the whole prompt.
    backend.no_truncation()
    backend.no_padding()
    return backend
