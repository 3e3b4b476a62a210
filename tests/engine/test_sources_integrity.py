"""Damaged model files are found before anything is started, and named."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from stageline_engine.core.errors import ModelSourceError
from stageline_engine.sources.integrity import check_folder, weight_files
from support.tiny_folder import shard_name, write_folder


def refusal(folder: Path) -> str:
    with pytest.raises(ModelSourceError) as caught:
        check_folder(folder)
    return str(caught.value)


@pytest.mark.parametrize(("shards", "indexed"), [(1, False), (1, True), (3, False), (3, True)])
def test_complete_files_pass(tmp_path: Path, shards: int, indexed: bool) -> None:
    folder = write_folder(tmp_path, shards=shards, indexed=indexed)
    check_folder(folder)
    assert len(weight_files(folder)) == shards


@pytest.mark.parametrize("left", [0, 4, 20, -1, -30])
def test_a_truncated_file_is_named(tmp_path: Path, left: int) -> None:
    file = write_folder(tmp_path, shards=2, indexed=True) / shard_name(1, 2)
    file.write_bytes(file.read_bytes()[:left])
    message = refusal(tmp_path)
    assert str(file) in message
    assert "damaged" in message


def test_extra_bytes_are_damage(tmp_path: Path) -> None:
    file = write_folder(tmp_path) / "model.safetensors"
    file.write_bytes(file.read_bytes() + b"x")
    assert "instead of" in refusal(tmp_path)


@pytest.mark.parametrize("indexed", [True, False])
def test_a_missing_shard_is_named(tmp_path: Path, indexed: bool) -> None:
    file = write_folder(tmp_path, shards=3, indexed=indexed) / shard_name(1, 3)
    file.unlink()
    message = refusal(tmp_path)
    assert str(file) in message
    assert "missing" in message


def test_a_shard_without_its_tensor_is_named(tmp_path: Path) -> None:
    index = write_folder(tmp_path, shards=2, indexed=True) / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    content["weight_map"]["tensor.9"] = shard_name(0, 2)
    index.write_text(json.dumps(content))
    assert "lacks the tensor tensor.9" in refusal(tmp_path)


def test_an_index_cannot_point_outside_of_the_folder(tmp_path: Path) -> None:
    index = write_folder(tmp_path, shards=2, indexed=True) / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"tensor.0": "../../etc/passwd"}}))
    assert "outside of the folder" in refusal(tmp_path)


@pytest.mark.parametrize(
    "header",
    [
        b"not json",
        b'{"a": 3}',
        b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}',
    ],
)
def test_a_header_that_makes_no_sense_is_damage(tmp_path: Path, header: bytes) -> None:
    file = write_folder(tmp_path) / "model.safetensors"
    file.write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    assert "damaged" in refusal(tmp_path)


def test_a_huge_header_length_is_not_believed(tmp_path: Path) -> None:
    file = write_folder(tmp_path) / "model.safetensors"
    file.write_bytes(struct.pack("<Q", 1 << 60) + bytes(100))
    assert "does not begin with a safetensors header" in refusal(tmp_path)


@pytest.mark.parametrize(("name", "told"), [("x.gguf", "GGUF file itself"), ("pytorch_model.bin", "only safetensors")])
def test_other_formats_of_weights_are_told_apart(tmp_path: Path, name: str, told: str) -> None:
    (write_folder(tmp_path) / "model.safetensors").rename(tmp_path / name)
    assert told in refusal(tmp_path)


@pytest.mark.parametrize("content", ["{", "[]", '{"no": "model type"}'])
def test_a_config_that_is_no_config_is_named(tmp_path: Path, content: str) -> None:
    (write_folder(tmp_path) / "config.json").write_text(content)
    assert "config.json" in refusal(tmp_path)
