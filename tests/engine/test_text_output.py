"""From an engine's outputs to text, finish reason and reported log probabilities of one choice."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from stageline_engine.core.messages import SequenceOutput
from stageline_engine.core.request import SamplingParams
from stageline_engine.text.output import ChoiceAssembler, TextDelta
from stageline_engine.text.tokenizer import Tokenizer
from support.scripted_engine import logprobs, tokens
from support.tiny_tokenizer import byte_level_tokenizer


def take_all(tokenizer: Tokenizer, outputs: Sequence[SequenceOutput], params: SamplingParams) -> list[TextDelta]:
    """Deltas up to the one that ends the choice."""
    assembler = ChoiceAssembler(tokenizer, params)
    deltas = []
    for output in outputs:
        deltas.append(assembler.take(output))
        assert assembler.is_finished == (deltas[-1].finish_reason is not None)
        if assembler.is_finished:
            break
    return deltas


def text_of(deltas: list[TextDelta]) -> str:
    return "".join(delta.text for delta in deltas)


def test_the_end_token_has_no_text_and_gives_stop(tokenizer: Tokenizer) -> None:
    ids = [*tokenizer.encode("hello world"), tokenizer.eos_token_ids[0]]
    deltas = take_all(tokenizer, tokens(ids, finish="stop"), SamplingParams(skip_special_tokens=False))
    assert text_of(deltas) == "hello world"
    assert (deltas[-1].finish_reason, deltas[-1].stop_reason) == ("stop", None)
    assert [token for delta in deltas for token in delta.token_ids] == ids


@pytest.mark.parametrize(("include", "text"), [(False, "hello"), (True, "hello of")])
def test_a_stop_token_is_named_and_its_text_is_left_out_unless_asked_for(
    tokenizer: Tokenizer, include: bool, text: str
) -> None:
    ids = tokenizer.encode("hello") + tokenizer.encode(" of")
    assert len(tokenizer.encode(" of")) == 1
    params = SamplingParams(stop_token_ids=(ids[-1],), include_stop_str_in_output=include)
    deltas = take_all(tokenizer, tokens(ids, finish="stop", stop_reason=ids[-1]), params)
    assert text_of(deltas) == text
    assert (deltas[-1].finish_reason, deltas[-1].stop_reason) == ("stop", ids[-1])


@pytest.mark.parametrize(("include", "text"), [(False, "hello "), (True, "hello world")])
def test_a_stop_string_ends_the_choice_before_the_engine_does(tokenizer: Tokenizer, include: bool, text: str) -> None:
    ids = tokenizer.encode("hello world, how are you today?")
    params = SamplingParams(stop=("world",), include_stop_str_in_output=include)
    deltas = take_all(tokenizer, tokens(ids, finish=None), params)
    assert text_of(deltas) == text
    assert (deltas[-1].finish_reason, deltas[-1].stop_reason) == ("stop", "world")
    assert len([token for delta in deltas for token in delta.token_ids]) < len(ids)


def test_tokens_of_one_output_after_the_stop_string_do_not_count(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("one two three four")
    output = SequenceOutput("", 0, ids, finish_reason="length")
    [delta] = take_all(tokenizer, [output], SamplingParams(stop=("two",)))
    assert (delta.text, delta.finish_reason, delta.stop_reason) == ("one ", "stop", "two")
    assert delta.token_ids == tokenizer.encode("one two")


def test_held_text_goes_out_when_the_choice_ends_otherwise(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("it ends with ST")
    deltas = take_all(tokenizer, tokens(ids, finish="length"), SamplingParams(stop=("STOP",)))
    assert text_of(deltas) == "it ends with ST"
    assert (deltas[-1].finish_reason, deltas[-1].stop_reason) == ("length", None)


def test_stop_strings_are_not_looked_for_within_min_tokens(tokenizer: Tokenizer) -> None:
    text = "stop words stop here: stop"
    ids = tokenizer.encode(text)
    first = len(tokenizer.encode("stop"))
    for min_tokens, expected in ((0, ""), (first, "stop words "), (len(ids), text)):
        params = SamplingParams(stop=("stop",), min_tokens=min_tokens)
        assert text_of(take_all(tokenizer, tokens(ids), params)) == expected


def test_half_a_character_at_the_end_is_shown_as_broken(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("a 北")[:-1]
    deltas = take_all(tokenizer, tokens(ids, finish="length"), SamplingParams())
    assert text_of(deltas) == tokenizer.decode(ids) == "a \ufffd"


def test_an_empty_last_output_ends_the_choice(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("a ST")
    outputs = [*tokens(ids, finish=None), SequenceOutput("", 0, [], finish_reason="abort")]
    deltas = take_all(tokenizer, outputs, SamplingParams(stop=("STOP",)))
    assert text_of(deltas) == "a ST"
    assert deltas[-1].finish_reason == "abort"


def test_reported_tokens_follow_the_text_and_never_show_a_stop_string(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("hello world 😀 STOP and more")
    outputs = tokens(ids, finish="length", with_logprobs=True)
    shown = ""
    assembler = ChoiceAssembler(tokenizer, SamplingParams(stop=("STOP and",), logprobs=0))
    reported = b""
    for output in outputs:
        delta = assembler.take(output)
        shown += delta.text
        for token in delta.reported:
            assert token.offset <= len(shown)
            reported += tokenizer.token_bytes(token.token_id)
        assert reported.decode(errors="ignore") == shown[: len(reported.decode(errors="ignore"))]
        if assembler.is_finished:
            break
    assert delta.stop_reason == "STOP and"
    assert shown == "hello world 😀 "
    assert b"ST" not in reported
    assert shown.encode().startswith(reported)


def test_every_token_is_reported_when_no_stop_string_ends_the_choice(tokenizer: Tokenizer) -> None:
    ids = [*tokenizer.encode("hello 😀 ST"), tokenizer.eos_token_ids[0]]
    deltas = take_all(tokenizer, tokens(ids, finish="stop", with_logprobs=True), SamplingParams(stop=("STOP",)))
    reported = [token for delta in deltas for token in delta.reported]
    assert [token.token_id for token in reported] == ids
    starts = [token.offset for token in reported]
    assert starts == sorted(starts)
    assert starts[-1] == len("hello 😀 ST")


def test_logprobs_stay_with_their_tokens(tokenizer: Tokenizer) -> None:
    one = logprobs(-1.0, 2)
    assembler = ChoiceAssembler(tokenizer, SamplingParams(logprobs=0, stop=("x",)))
    delta = assembler.take(SequenceOutput("", 0, [70], logprobs=[one]))
    assert (delta.token_ids, delta.logprobs) == ([70], [one])


def test_folder_is_only_read(tmp_path: Path) -> None:
    folder = byte_level_tokenizer(tmp_path)
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    Tokenizer(folder).encode("hello")
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before
