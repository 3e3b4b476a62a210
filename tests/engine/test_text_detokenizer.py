"""Incremental detokenisation: the pieces joined are the whole decoding, and no piece holds half a character."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stageline_engine.text.detokenizer import Detokenizer
from stageline_engine.text.tokenizer import Tokenizer
from support.tiny_tokenizer import byte_fallback_tokenizer, byte_level_tokenizer

TEXTS = [
    "The capital of France is Paris.",
    "Größe, naïve café 北京 上海 😀😃🇫🇷 привет",
    "  leading and   inner spaces \n\n\ttabs ",
    "👩‍👩‍👧‍👦 family",
    "",
]


@pytest.fixture(scope="module", params=["byte level", "byte fallback"])
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    make = byte_level_tokenizer if request.param == "byte level" else byte_fallback_tokenizer
    return Tokenizer(make(tmp_path_factory.mktemp("tokenizer")))


def pieces(tokenizer: Tokenizer, token_ids: list[int], *, skip: bool = True) -> list[str]:
    detokenizer = Detokenizer(tokenizer, skip)
    return [*(detokenizer.push(token_id) for token_id in token_ids), detokenizer.flush()]


@pytest.mark.parametrize("text", TEXTS)
def test_pieces_join_to_the_text_without_broken_characters(tokenizer: Tokenizer, text: str) -> None:
    token_ids = tokenizer.encode(text, add_special_tokens=False)
    found = pieces(tokenizer, token_ids)
    assert "".join(found) == tokenizer.decode(token_ids) == text
    assert not any("\ufffd" in piece for piece in found)


@given(text=st.text(max_size=30))
@settings(max_examples=100, deadline=None)
def test_any_text_comes_back_piece_by_piece(tokenizer: Tokenizer, text: str) -> None:
    token_ids = tokenizer.encode(text, add_special_tokens=False)
    assert "".join(pieces(tokenizer, token_ids)) == tokenizer.decode(token_ids)


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_random_tokens_of_a_byte_level_model_decode_as_a_whole(byte_level: Tokenizer, data: st.DataObject) -> None:
    token_ids = data.draw(st.lists(st.integers(0, byte_level.vocab_size - 1), max_size=60))
    for skip in (True, False):
        assert "".join(pieces(byte_level, token_ids, skip=skip)) == byte_level.decode(token_ids, skip)


@pytest.fixture(scope="module")
def byte_level(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer(byte_level_tokenizer(tmp_path_factory.mktemp("tokenizer")))


def test_bytes_that_are_no_character_come_out_as_soon_as_that_is_certain(byte_level: Tokenizer) -> None:
    broken = byte_level.encode("é", add_special_tokens=False)[:1]
    whole = byte_level.encode("a", add_special_tokens=False)
    assert byte_level.token_bytes(broken[0]) == b"\xc3"
    assert pieces(byte_level, broken) == ["", "\ufffd"]
    assert pieces(byte_level, broken + whole) == ["", "\ufffda", ""]
    endless = pieces(byte_level, broken * 100)
    assert "".join(endless) == "\ufffd" * 100
    assert endless[-1] != "\ufffd" * 100


def test_special_tokens_are_left_out_or_shown(tokenizer: Tokenizer) -> None:
    end = tokenizer.eos_token_ids[0]
    token_ids = [*tokenizer.encode("hello", add_special_tokens=False), end]
    token_ids += tokenizer.encode("hello", add_special_tokens=False)[-1:]
    for skip in (True, False):
        assert "".join(pieces(tokenizer, token_ids, skip=skip)) == tokenizer.decode(token_ids, skip)
    assert "".join(pieces(tokenizer, [end], skip=False)) == tokenizer.special_tokens["eos_token"]


def test_a_leading_space_is_kept_after_the_first_token(tokenizer: Tokenizer) -> None:
    token_ids = tokenizer.encode("one two three", add_special_tokens=False)
    assert [piece for piece in pieces(tokenizer, token_ids) if piece.startswith(" ")]


def test_bytes_that_would_change_text_that_is_out_do_not(tmp_path: Path) -> None:
    tokenizer = Tokenizer(byte_fallback_tokenizer(tmp_path))
    euro, letter = ([3 + byte for byte in "€".encode()], tokenizer.encode("x", add_special_tokens=False)[-1])
    stray = 3 + 0xFF
    assert tokenizer.decode([*euro, stray, letter]).startswith("\ufffd" * 4)
    found = pieces(tokenizer, [*euro, stray, letter])
    assert "".join(found).startswith("€\ufffd")
