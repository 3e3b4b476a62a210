"""What a person may call a model, and what is answered to wrong names."""

from __future__ import annotations

from pathlib import Path

import pytest

from stageline_engine.core.errors import ModelSourceError
from stageline_engine.sources.resolve import resolve
from support.tiny_folder import write_folder


def silent(message: str) -> None:
    raise AssertionError(f"nothing here takes long, and yet it was said: {message}")


def test_a_complete_folder_is_used_in_place(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "My-Model")
    found = resolve(str(folder), progress=silent)
    assert (found.path, found.name) == (folder, "My-Model")


def test_a_relative_path_means_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_folder(tmp_path / "here")
    monkeypatch.chdir(folder)
    found = resolve(".", progress=silent)
    assert (found.path, found.name) == (folder, "here")


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("org/name", "write hf://org/name"),
        ("org/name@v1", "write hf://org/name@v1"),
        ("/nowhere/at/all", "there is no such folder or file"),
        ("s3://bucket/model", "the scheme 's3' is not known"),
        ("hf://a/b/c", "write hf://org/name"),
        ("hf://", "write hf://org/name"),
        ("pip://", "write pip://package"),
        ("pip://--index-url=x", "write pip://package"),
    ],
)
def test_a_wrong_name_is_answered_with_the_right_form(name: str, remedy: str) -> None:
    with pytest.raises(ModelSourceError) as caught:
        resolve(name, progress=silent)
    assert remedy in str(caught.value)
    assert name in str(caught.value)


def test_a_folder_without_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelSourceError, match=r"no config\.json"):
        resolve(str(tmp_path), progress=silent)


def test_a_folder_without_any_tokenizer_is_refused(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelSourceError, match=r"no tokenizer\.json"):
        resolve(str(folder), progress=silent)


def test_planning_needs_only_a_config(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model")
    (folder / "model.safetensors").unlink()
    (folder / "tokenizer.json").unlink()
    assert resolve(str(folder), progress=silent, with_weights=False).path == folder


def test_a_file_that_is_not_gguf_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"PK\3\4" + bytes(100))
    with pytest.raises(ModelSourceError, match="not a GGUF file"):
        resolve(str(file), progress=silent)
