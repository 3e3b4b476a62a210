"""Small real tokenizers, trained in the test, in folders as models have them."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

from sentencepiece import SentencePieceTrainer
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

CORPUS = [
    "The capital of France is Paris. The capital of Italy is Rome, and that of Germany is Berlin.",
    "hello world, how are you today? I am fine, thank you very much; and you?",
    "one two three four five six seven eight nine ten eleven twelve",
    "Größe, naïve café, 北京 上海 東京, привет мир, 😀 😃 😄 🇫🇷",
    "stop words stop here: STOP! STOPPED? no more than that.",
    "def main(args):\n    return {'key': [1, 2, 3]}\n",
] * 3

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] | trim + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def byte_level_tokenizer(folder: Path, *, vocab_size: int = 400, chat_template: str | None = CHAT_TEMPLATE) -> Path:
    """A byte-level BPE tokenizer, as GPT-2's and Qwen's; every byte is a token, so any text can be written."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    config: dict[str, object] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|endoftext|>",
        "eos_token": "<|im_end|>",
        "additional_special_tokens": SPECIAL[1:],
    }
    if chat_template is not None:
        config["chat_template"] = chat_template
    return _write(folder, tokenizer, config, {"vocab_size": vocab_size + 24, "eos_token_id": 2})


def byte_fallback_tokenizer(folder: Path, *, vocab_size: int = 500) -> Path:
    """A BPE tokenizer with metaspaces and byte tokens, as Llama 2's and Mistral's; it adds a beginning token."""
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    special = ["<unk>", "<s>", "</s>"]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=[*special, *byte_tokens], show_progress=False, limit_alphabet=60
    )
    tokenizer.train_from_iterator([line for line in CORPUS if line.isascii()], trainer)
    content = json.loads(tokenizer.to_str())
    # Byte tokens are ordinary vocabulary; only the trainer wants them declared.
    content["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
    }
    content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] in special]
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": {"__type": "AddedToken", "content": "<s>", "lstrip": False, "rstrip": False, "normalized": False},
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "add_bos_token": True,
        "add_eos_token": False,
    }
    return _write(folder, Tokenizer.from_str(json.dumps(content)), config, {"vocab_size": vocab_size})


def _write(folder: Path, tokenizer: Tokenizer, tokenizer_config: dict[str, object], config: dict[str, object]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config))
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def sentencepiece_model(**options: Any) -> bytes:
    """A tokenizer.model: BPE with byte tokens and a space before the first word, as Llama 2's, but for ``options``."""
    written = io.BytesIO()
    settings: dict[str, Any] = {
        "model_type": "bpe",
        "vocab_size": 500,
        "byte_fallback": True,
        "split_digits": True,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "allow_whitespace_only_pieces": True,
        "minloglevel": 2,
    }
    SentencePieceTrainer.train(sentence_iterator=iter(CORPUS), model_writer=written, **settings | options)
    return written.getvalue()
