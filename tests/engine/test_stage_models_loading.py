"""What a rank reads of a model folder, and what it says about one that is damaged or cannot be cut."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from stageline_engine.core.errors import ConfigurationError, ModelSourceError, UnsupportedModelError
from stageline_engine.models.stage_model import StageModel, load_stage_model
from stageline_engine.models.tensor_group import SoloGroup
from support.stage_pipeline import even_split, load_pipeline, rank_settings
from support.tiny_models import FAMILIES, LAYERS, VOCAB, tiny_model


def copy_of(family: str, folder: Path) -> Path:
    copied = folder / family
    shutil.copytree(tiny_model(family), copied)
    return copied


def load_whole(folder: Path) -> StageModel:
    return load_stage_model(rank_settings(folder, stage=0, ranges=[(0, LAYERS)]), 0, SoloGroup())


def change_config(folder: Path, **changes: Any) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


def stored_sizes(folder: Path) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for file in folder.glob("*.safetensors"):
        sizes |= {name: tensor.nbytes for name, tensor in load_file(file).items()}
    return sizes


@pytest.mark.parametrize("family", FAMILIES)
def test_the_stages_together_read_each_tensor_once(family: str) -> None:
    folder = tiny_model(family)
    sizes = stored_sizes(folder)
    for stages in (1, 3):
        pipeline = load_pipeline(folder, even_split(LAYERS, stages), [1] * stages)
        # A tied embedding is needed at both ends.
        twice = (
            next(size for name, size in sizes.items() if "embed" in name) if FAMILIES[family].tied and stages > 1 else 0
        )
        assert sum(ranks[0].bytes_read for ranks in pipeline) == sum(sizes.values()) + twice


@pytest.mark.parametrize("family", FAMILIES)
def test_ranks_together_read_what_is_divided_once_and_the_rest_each(family: str) -> None:
    folder = tiny_model(family)
    tp = FAMILIES[family].possible_tp[1]
    whole = load_whole(folder)
    ranks = load_pipeline(folder, [(0, LAYERS)], [tp])[0]
    read = [rank.bytes_read for rank in ranks]
    replicated = (sum(read) - whole.bytes_read) / (tp - 1)
    assert 0 < replicated < min(read) < whole.bytes_read


def test_a_stage_reads_from_the_files_of_its_own_layers_only(tmp_path: Path) -> None:
    folder = copy_of("llama", tmp_path)
    index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    middle = rank_settings(folder, stage=1, ranges=even_split(LAYERS, 3))
    mine = {f"model.layers.{layer}." for layer in range(middle.spec.start, middle.spec.end)}
    expected = sum(size for name, size in stored_sizes(folder).items() if any(name.startswith(p) for p in mine))
    assert len(set(index.values())) > 3
    assert load_stage_model(middle, 0, SoloGroup()).bytes_read == expected


def test_a_tied_embedding_is_in_memory_once_where_one_stage_has_both_ends() -> None:
    tied = load_whole(tiny_model("llama-tied"))
    first, last = load_pipeline(tiny_model("llama-tied"), even_split(LAYERS, 2), [1, 1])
    embedding = VOCAB * tied.hidden_size * 4
    assert first[0].bytes_read + last[0].bytes_read == tied.bytes_read + embedding


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_weights_take_the_memory_that_is_said(family: str) -> None:
    for ranks in load_pipeline(tiny_model(family), even_split(LAYERS, 2), [1, 1]):
        assert ranks[0].weight_bytes == ranks[0].bytes_read


def test_a_padded_projection_takes_the_memory_that_is_said() -> None:
    # The output projection is padded to equal parts of the vocabulary.
    whole = load_whole(tiny_model("llama"))
    padding = -(-VOCAB // 4) * 4 - VOCAB
    last = load_pipeline(tiny_model("llama"), [(0, LAYERS)], [4])[0][3]
    assert last.weight_bytes == last.bytes_read + padding * whole.hidden_size * 4


def test_half_precision_weights_are_converted_to_the_wanted_type(tmp_path: Path) -> None:
    folder = copy_of("llama-tied", tmp_path)
    file = folder / "model.safetensors"
    save_file({name: tensor.bfloat16() for name, tensor in load_file(file).items()}, file)
    model = load_whole(folder)
    assert model.dtype == torch.float32
    assert model.bytes_read == file.stat().st_size - 8 - struct.unpack("<Q", file.read_bytes()[:8])[0]


def truncate(file: Path) -> None:
    with file.open("r+b") as stream:
        stream.truncate(file.stat().st_size - 5)


def lengthen(file: Path) -> None:
    with file.open("ab") as stream:
        stream.write(b"more")


def cut_the_header(file: Path) -> None:
    with file.open("r+b") as stream:
        stream.truncate(40)


def empty(file: Path) -> None:
    file.write_bytes(b"")


def scramble_the_header(file: Path) -> None:
    with file.open("r+b") as stream:
        stream.seek(8)
        stream.write(b"]" * 10)


def claim_a_huge_header(file: Path) -> None:
    with file.open("r+b") as stream:
        stream.write(struct.pack("<Q", 2**60))


def remove(file: Path) -> None:
    file.unlink()


@pytest.mark.parametrize(
    "damage", [truncate, lengthen, cut_the_header, empty, scramble_the_header, claim_a_huge_header, remove]
)
def test_a_damaged_file_is_named_before_anything_is_loaded(damage: Any, tmp_path: Path) -> None:
    folder = copy_of("llama", tmp_path)
    file = sorted(folder.glob("*.safetensors"))[-1]
    damage(file)
    # The first stage needs nothing of the last file, and yet it must say so: the pipeline could not serve.
    with pytest.raises(ModelSourceError, match=file.name):
        load_stage_model(rank_settings(folder, stage=0, ranges=even_split(LAYERS, 3)), 0, SoloGroup())


def test_a_tensor_that_the_index_promises_and_no_file_has_is_named(tmp_path: Path) -> None:
    folder = copy_of("llama", tmp_path)
    file = sorted(folder.glob("*.safetensors"))[0]
    tensors = load_file(file)
    lost = sorted(tensors)[0]
    save_file({name: tensor for name, tensor in tensors.items() if name != lost}, file)
    with pytest.raises(ModelSourceError, match=lost):
        load_whole(folder)


def test_a_damaged_index_is_named(tmp_path: Path) -> None:
    folder = copy_of("llama", tmp_path)
    (folder / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(ModelSourceError, match="index"):
        load_whole(folder)


@pytest.mark.parametrize(
    ("family", "lost"),
    [
        ("llama-tied", "model.norm.weight"),
        ("mixtral", "model.layers.2.block_sparse_moe.experts.3.w3.weight"),
        ("qwen2", "model.embed_tokens.weight"),
    ],
)
def test_a_missing_tensor_is_an_error(family: str, lost: str, tmp_path: Path) -> None:
    folder = copy_of(family, tmp_path)
    file = folder / "model.safetensors"
    tensors = load_file(file)
    del tensors[lost]
    save_file(tensors, file)
    with pytest.raises(ModelSourceError, match="lack"):
        load_whole(folder)


def test_weights_of_another_shape_than_the_config_says_are_an_error(tmp_path: Path) -> None:
    folder = change_config(copy_of("llama-tied", tmp_path), intermediate_size=52)
    with pytest.raises(ModelSourceError, match=r"mlp.*config\.json says"):
        load_whole(folder)


def test_a_folder_without_weights_or_config_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelSourceError, match=r"config\.json"):
        load_whole(tmp_path)
    shutil.copy(tiny_model("llama") / "config.json", tmp_path)
    with pytest.raises(ModelSourceError, match="safetensors"):
        load_whole(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", '{"model_type": "llama"}'])
def test_a_broken_config_is_an_error(text: str, tmp_path: Path) -> None:
    folder = copy_of("llama", tmp_path)
    (folder / "config.json").write_text(text)
    with pytest.raises(ModelSourceError, match=r"config\.json"):
        load_whole(folder)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"architectures": ["Gemma2ForCausalLM"], "model_type": "gemma2"}, "LlamaForCausalLM.*--allow-unverified"),
        ({"model_type": "nobody-knows"}, "nobody-knows"),
        ({"quantization_config": {"quant_method": "awq"}}, "quantization_config"),
        ({"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}, "dynamic.*neighbours"),
    ],
)
def test_what_cannot_run_is_refused_with_the_reason(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    folder = change_config(copy_of("llama", tmp_path), **changes)
    with pytest.raises(UnsupportedModelError, match=said):
        load_whole(folder)


def test_integer_weights_are_refused(tmp_path: Path) -> None:
    folder = copy_of("llama-tied", tmp_path)
    file = folder / "model.safetensors"
    tensors = load_file(file)
    tensors["model.layers.0.mlp.up_proj.weight"] = tensors["model.layers.0.mlp.up_proj.weight"].to(torch.int8)
    save_file(tensors, file)
    with pytest.raises(UnsupportedModelError, match="up_proj.*I8"):
        load_whole(folder)


def test_layers_that_the_model_lacks_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=rf"--layer-split.*{LAYERS} layers"):
        load_stage_model(rank_settings(tiny_model("llama"), stage=0, ranges=[(0, LAYERS + 1)]), 0, SoloGroup())
