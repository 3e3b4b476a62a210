"""The tokenizer of a model folder does what transformers' fast tokenizers do, without importing transformers."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import transformers

from stageline_engine.core.errors import InvalidRequestError, ModelSourceError
from stageline_engine.text.tokenizer import Tokenizer, eos_token_ids
from support.tiny_tokenizer import byte_fallback_tokenizer, byte_level_tokenizer

TEXT = "Hello <|im_start|>user é 😀 </s>  two  spaces\n"
MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "  What is the capital of France? "},
    {"role": "assistant", "content": "It is "},
]


@pytest.fixture(scope="module")
def byte_level(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return byte_level_tokenizer(tmp_path_factory.mktemp("byte_level"))


@pytest.fixture(scope="module")
def byte_fallback(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return byte_fallback_tokenizer(tmp_path_factory.mktemp("byte_fallback"))


def changed(folder: Path, target: Path, file: str, **changes: object) -> Path:
    """A copy of a model folder with other values in one of its JSON files."""
    shutil.copytree(folder, target)
    path = target / file
    content = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**content, **changes}))
    return target


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"add_bos_token": True},
        {"add_eos_token": True},
        {"add_bos_token": True, "add_eos_token": True},
        {"add_bos_token": False},
        {"additional_special_tokens": ["<|new|>"]},
        {"added_tokens_decoder": {"900": {"content": "user", "special": False}, "901": {"content": "  "}}},
    ],
)
@pytest.mark.parametrize("kind", ["byte_level", "byte_fallback"])
def test_ids_and_texts_are_those_of_transformers(
    kind: str, changes: dict[str, object], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    folder = changed(request.getfixturevalue(kind), tmp_path / "model", "tokenizer_config.json", **changes)
    reference = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    tokenizer = Tokenizer(folder)
    for add_special_tokens in (True, False):
        ids = tokenizer.encode(TEXT, add_special_tokens)
        assert ids == reference(TEXT, add_special_tokens=add_special_tokens)["input_ids"]
        for skip in (True, False):
            assert tokenizer.decode(ids, skip) == reference.decode(ids, skip_special_tokens=skip)


@pytest.mark.parametrize(
    ("add_generation_prompt", "continue_final_message"), [(True, False), (False, False), (False, True)]
)
@pytest.mark.parametrize("trims", [True, False])
def test_prompts_are_those_of_transformers(
    byte_level: Path, tmp_path: Path, add_generation_prompt: bool, continue_final_message: bool, trims: bool
) -> None:
    template = json.loads((byte_level / "tokenizer_config.json").read_text())["chat_template"]
    if not trims:
        template = template.replace(" | trim", "")
    folder = changed(byte_level, tmp_path / "model", "tokenizer_config.json", chat_template=template)
    reference = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    tokenizer = Tokenizer(folder)
    assert tokenizer.chat_template is not None
    prompt = tokenizer.chat_template.render(
        MESSAGES, add_generation_prompt=add_generation_prompt, continue_final_message=continue_final_message
    )
    assert prompt == reference.apply_chat_template(
        MESSAGES,
        tokenize=False,
        add_generation_prompt=add_generation_prompt,
        continue_final_message=continue_final_message,
    )


def test_templates_get_the_helpers_that_transformers_gives_them(byte_level: Path, tmp_path: Path) -> None:
    source = (
        "{{ bos_token }}{{ {'a': '<é>'} | tojson }}{{ [1, 2] | tojson(indent=1) }}"
        "{% for m in messages %}{% if loop.index > 1 %}{% break %}{% endif %}"
        "{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}"
        "{{ strftime_now('%Y') | length }}{{ extra }}{% if tools %}tools{% endif %}"
    )
    (folder := tmp_path / "model").mkdir()
    shutil.copytree(byte_level, folder, dirs_exist_ok=True)
    (folder / "chat_template.jinja").write_text(source)
    template = Tokenizer(folder).chat_template
    assert template is not None
    text = template.render(MESSAGES, variables={"extra": "!", "bos_token": "<b>"})
    assert text == '<b>{"a": "<é>"}[\n 1,\n 2\n]Be brief.4!'


def test_a_list_of_templates_gives_its_default(byte_level: Path, tmp_path: Path) -> None:
    listed = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "plain"}]
    folder = changed(byte_level, tmp_path / "model", "tokenizer_config.json", chat_template=listed)
    template = Tokenizer(folder).chat_template
    assert template is not None
    assert template.render(MESSAGES) == "plain"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ messages[99].content }}", "no element 99"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ messages.append(1) }}", "unsafe"),
        ("{{ 1 / 0 }}", "division"),
        ("{{ none.x.y }}", "has no attribute"),
    ],
)
def test_what_a_template_raises_is_about_the_request(
    byte_level: Path, tmp_path: Path, source: str, message: str
) -> None:
    folder = changed(byte_level, tmp_path / "model", "tokenizer_config.json", chat_template=source)
    template = Tokenizer(folder).chat_template
    assert template is not None
    with pytest.raises(InvalidRequestError, match=message):
        template.render(MESSAGES)


def test_a_final_message_that_the_template_hides_cannot_be_continued(byte_level: Path, tmp_path: Path) -> None:
    folder = changed(byte_level, tmp_path / "model", "tokenizer_config.json", chat_template="{{ messages[0].content }}")
    template = Tokenizer(folder).chat_template
    assert template is not None
    with pytest.raises(InvalidRequestError, match="continue_final_message"):
        template.render(MESSAGES, add_generation_prompt=False, continue_final_message=True)


@pytest.mark.parametrize(
    ("generation", "config", "expected"),
    [
        ({"eos_token_id": [5, 6]}, {"eos_token_id": 1}, (5, 6)),
        ({"eos_token_id": 5}, {}, (5,)),
        ({}, {"eos_token_id": [1, 2]}, (1, 2)),
        ({}, {"eos_token_id": None, "text_config": {"eos_token_id": 9}}, (9,)),
        ({}, {"eos_token_id": None}, (2,)),
    ],
)
def test_end_ids_come_from_the_most_specific_file(
    byte_level: Path,
    tmp_path: Path,
    generation: dict[str, object],
    config: dict[str, object],
    expected: tuple[int, ...],
) -> None:
    folder = changed(byte_level, tmp_path / "model", "generation_config.json", **generation)
    path = folder / "config.json"
    path.write_text(json.dumps({"vocab_size": 400, **config}))
    assert eos_token_ids(folder) == Tokenizer(folder).eos_token_ids == expected


def test_bytes_of_tokens_join_to_the_text(byte_level: Path, byte_fallback: Path) -> None:
    for folder, beginning in ((byte_level, ""), (byte_fallback, " ")):
        tokenizer = Tokenizer(folder)
        text = "Größe 😀 hello"
        ids = tokenizer.encode(text, add_special_tokens=False)
        assert b"".join(map(tokenizer.token_bytes, ids)).decode() == beginning + text
    end = tokenizer.eos_token_ids[0]
    assert tokenizer.token_bytes(end) == b"</s>"
    assert tokenizer.token_text(tokenizer.encode("é", add_special_tokens=False)[-1]) == "bytes:\\xa9"


def test_ids_beyond_the_vocabulary_have_no_text(byte_level: Path) -> None:
    tokenizer = Tokenizer(byte_level)
    assert tokenizer.num_tokens == 400
    assert tokenizer.vocab_size == 424
    assert tokenizer.decode([tokenizer.vocab_size - 1]) == ""
    assert tokenizer.token_bytes(tokenizer.vocab_size - 1) == b""


def test_the_model_takes_no_ids_that_only_the_tokenizer_has(byte_level: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer(changed(byte_level, tmp_path / "model", "config.json", vocab_size=390))
    assert tokenizer.num_tokens == 400
    assert tokenizer.vocab_size == 390


def test_a_text_never_has_fewer_tokens_than_its_length_allows(byte_level: Path, byte_fallback: Path) -> None:
    for folder in (byte_level, byte_fallback):
        tokenizer = Tokenizer(folder)
        for text in ("hello world, how are you today?" * 20, " " * 500, "😀" * 50):
            assert len(tokenizer.encode(text)) * tokenizer.most_characters_per_token >= len(text)


def test_a_folder_without_a_tokenizer_or_with_a_damaged_one_is_named(byte_level: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelSourceError, match=r"tokenizer\.json"):
        Tokenizer(tmp_path)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        folder = tmp_path / file
        shutil.copytree(byte_level, folder)
        (folder / file).write_text('{"cut off')
        with pytest.raises(ModelSourceError, match=file):
            Tokenizer(folder)
    folder = changed(byte_level, tmp_path / "model", "tokenizer_config.json", chat_template="{% if %}")
    with pytest.raises(ModelSourceError, match="chat template"):
        Tokenizer(folder)


def test_the_text_part_imports_neither_transformers_nor_torch() -> None:
    code = (
        "import sys, stageline_engine.text.tokenizer, stageline_engine.text.output;"
        "print([name for name in ('torch', 'transformers', 'numpy', 'fastapi') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
