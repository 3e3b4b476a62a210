"""Folders whose tokenizer is a SentencePiece file: the same tokens as SentencePiece's own, or a refusal."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sentencepiece import SentencePieceProcessor

from stageline_engine.core.errors import ModelSourceError
from stageline_engine.sources.resolve import resolve
from stageline_engine.text.tokenizer import Tokenizer
from support.tiny_folder import CONFIG, write_folder
from support.tiny_tokenizer import CORPUS, sentencepiece_model

CHAT_TEMPLATE = "{{ bos_token }}{% for message in messages %}[INST] {{ message['content'] }} [/INST]{% endfor %}"


@pytest.fixture(autouse=True)
def use_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAGELINE_CACHE", str(tmp_path / "cache"))


def folder_with(folder: Path, content: bytes, *, model_type: str = "llama", kind: str = "LlamaTokenizer") -> Path:
    """A model's folder whose only tokenizer is the SentencePiece file ``content``."""
    write_folder(folder)
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.model").write_bytes(content)
    (folder / "config.json").write_text(json.dumps(CONFIG | {"model_type": model_type}))
    settings = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "add_bos_token": True}
    (folder / "tokenizer_config.json").write_text(
        json.dumps(settings | {"tokenizer_class": kind, "chat_template": CHAT_TEMPLATE})
    )
    return folder


@pytest.mark.parametrize(
    ("model_type", "kind", "options"),
    [
        ("llama", "LlamaTokenizer", {}),
        ("mistral", "LlamaTokenizer", {"user_defined_symbols": ["<|sep|>"]}),
        ("gemma3_text", "GemmaTokenizer", {"add_dummy_prefix": False}),
    ],
)
def test_the_tokens_are_sentencepieces_own(
    tmp_path: Path, model_type: str, kind: str, options: dict[str, object]
) -> None:
    content = sentencepiece_model(**options)
    original = SentencePieceProcessor(model_proto=content)
    folder = folder_with(tmp_path / "model", content, model_type=model_type, kind=kind)
    said: list[str] = []
    found = resolve(str(folder), progress=said.append)
    tokenizer = Tokenizer(found.path)
    for text in [*CORPUS, "the theatre, then: 3 14 159", "an end \n\n"]:
        ids = original.encode(text)
        assert tokenizer.encode(text, add_special_tokens=False) == ids
        assert tokenizer.encode(text) == [original.bos_id(), *ids]
        assert tokenizer.decode(ids) == original.decode(ids) == text
    assert tokenizer.eos_token_ids == (original.eos_id(),)
    assert tokenizer.chat_template is not None
    assert tokenizer.chat_template.render([{"role": "user", "content": "hello"}]) == "<s>[INST] hello [/INST]"
    assert said == ["preparing the tokenizer (once): importing transformers", "converting the tokenizer"]
    assert resolve(str(folder), progress=lambda line: pytest.fail(line)) == found


def test_a_tokenizer_that_would_make_other_tokens_is_refused(tmp_path: Path) -> None:
    content = sentencepiece_model(normalization_rule_name="nmt_nfkc", remove_extra_whitespaces=True)
    folder = folder_with(tmp_path / "model", content)
    with pytest.raises(
        ModelSourceError, match=r"tokenizer\.model.* makes other tokens of .*folder with tokenizer\.json"
    ):
        resolve(str(folder), progress=print)


def test_a_file_that_is_not_of_sentencepiece_is_refused(tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "model", b"aGVsbG8= 0\n")
    with pytest.raises(ModelSourceError, match=r"tokenizer\.model.*damaged or not of SentencePiece"):
        resolve(str(folder), progress=print)
