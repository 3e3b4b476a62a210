"""The tokenizer of a model's folder as tokenizer.json, by transformers; what SentencePiece made is held to it.

transformers chooses a tokenizer's class by the model's type, and some choices lose what the SentencePiece file says
(Mistral's lose the space before the first word), which would give a model other tokens than it was trained on.
"""

from __future__ import annotations

import json
from pathlib import Path

from sentencepiece import SentencePieceProcessor
from tokenizers import Tokenizer
from transformers import AutoTokenizer, LlamaTokenizer, PreTrainedTokenizerBase

from stageline_engine.core.errors import ModelSourceError

SENTENCEPIECE_FILES = ("tokenizer.model", "spiece.model")
CLASSES = (AutoTokenizer, LlamaTokenizer)
"""In this order: what transformers chooses, and the class that does what most SentencePiece files of decoders say."""
SAMPLES = (
    "The capital of France is Paris.",
    "def main(args):\n    return {'key': [1, 2, 2024]}\n",
    "two  spaces,\ttab and end ",
    "Größe, naïve café, привет, 北京, 😀\x00",
    "ﬁne ½ Å",
)
"""None begins with a space: transformers' fast tokenizers put no second one before it, whatever SentencePiece does."""


def convert_tokenizer(source: Path, folder: Path) -> None:
    """Write the tokenizer of the model folder ``source`` into ``folder`` as tokenizer.json.

    Raises:
        ModelSourceError: there is no tokenizer, or it cannot be expressed as tokenizer.json.
    """
    try:
        _read(source).save_pretrained(folder)
    except ModelSourceError:
        raise
    except Exception as error:  # slow tokenizers raise whatever their optional library raises
        first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelSourceError("model", str(source), f"its tokenizer cannot be converted: {first_line}") from error
    if not (folder / "tokenizer.json").is_file():
        names = json.dumps(sorted(path.name for path in source.glob("*token*")))
        raise ModelSourceError("model", str(source), f"its tokenizer has no tokenizer.json form; it has {names}")


def _read(source: Path) -> PreTrainedTokenizerBase:
    pieces = next((source / name for name in SENTENCEPIECE_FILES if (source / name).is_file()), None)
    if pieces is None:
        return AutoTokenizer.from_pretrained(str(source))
    try:
        processor = SentencePieceProcessor(model_file=str(pieces))
    except RuntimeError as error:
        raise ModelSourceError(
            "model",
            str(pieces),
            "the file is damaged or not of SentencePiece; fetch it again, or give a folder with tokenizer.json",
        ) from error
    for kind in CLASSES:
        tokenizer = kind.from_pretrained(str(source))
        if _differing(tokenizer.backend_tokenizer, processor) is None:
            return tokenizer
    text = _differing(AutoTokenizer.from_pretrained(str(source)).backend_tokenizer, processor)
    raise ModelSourceError(
        "model",
        str(pieces),
        f"transformers makes other tokens of {text!r} than it says; give a folder with tokenizer.json",
    )


def _differing(converted: Tokenizer, original: SentencePieceProcessor) -> str | None:
    """The first sample that the two split or join differently."""
    for text in SAMPLES:
        ids = original.encode(text)
        if converted.encode(text, add_special_tokens=False).ids != ids or converted.decode(ids) != original.decode(ids):
            return text
    return None
