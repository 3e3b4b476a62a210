"""``python -m stageline_engine.sources.convert``: writes a canonical folder. The only process here that needs torch.

    gguf FILE FOLDER         weights, config, generation config, tokenizer and chat template of a GGUF file
    gguf FILE FOLDER SPEC    only its config, and the weights that one pipeline stage reads
    tokenizer MODEL FOLDER   only the tokenizer of a model's folder, as tokenizer.json

Runs as a child of the head, see child.py.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

import gguf
import msgspec
import torch
from tokenizers import Tokenizer, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.integrations.gguf import read_gguf_metadata
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

from stageline_engine.core.deployment import StageSpec
from stageline_engine.core.errors import ModelSourceError
from stageline_engine.sources import child
from stageline_engine.sources.gguf_header import check_gguf
from stageline_engine.sources.stage_bytes import Ends, needs
from stageline_engine.sources.tokenizer_conversion import convert_tokenizer

SINGLE_DIGIT_VOCABULARIES = frozenset({"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone"})
"""Values of ``tokenizer.ggml.pre`` whose merges were learned on text with every digit on its own. transformers builds
these without that rule, so that "2024" would become other tokens than in training."""

END_OF_TURN = ("<|im_end|>", "<end_of_turn>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<|end_of_turn|>")
"""Tokens that end an answer when the model's chat template writes them; GGUF files often name only one end."""

FLOAT32, FLOAT16, BFLOAT16 = 0, 1, 30
FLOATS = {FLOAT32: torch.float32, FLOAT16: torch.float16, BFLOAT16: torch.bfloat16}
"""By GGUF's number. transformers can name a file's type itself, but refuses files with blocks that it only unpacks."""

UNREADABLE = (ValueError, KeyError, IndexError, NotImplementedError, RuntimeError, OSError)
"""What transformers raises at a file that it cannot read."""

SHARD_SIZE = "4GB"

_BLOCK = re.compile(r"blk\.(\d+)\.")
"""How GGUF names the tensors of a layer."""


def work(arguments: Sequence[str], report: child.Reporter) -> None:
    """Do what the command line says."""
    kind, source, target, *stage = arguments
    os.umask(umask := os.umask(0o077))
    if stage:
        convert_stage(Path(source), Path(target), msgspec.json.decode(stage[0], type=StageSpec), report)
    elif kind == "gguf":
        convert_gguf(Path(source), Path(target), report)
    else:
        report.progress("converting the tokenizer")
        convert_tokenizer(Path(source), Path(target))
    for path in Path(target).iterdir():
        if path.is_file():  # safetensors are written readable for their owner only
            path.chmod(0o666 & ~umask)


def convert_gguf(file: Path, folder: Path, report: child.Reporter) -> None:
    """Write what a GGUF file holds into ``folder``.

    Raises:
        ModelSourceError: transformers cannot read this file, or tensors are missing in it.
    """
    try:
        metadata, _ = read_gguf_metadata(str(file), ("tokenizer.ggml.tokens",))
        config = AutoConfig.from_pretrained(str(file.parent), gguf_file=file.name)
        report.progress("converting the tokenizer")
        tokenizer = AutoTokenizer.from_pretrained(str(file.parent), gguf_file=file.name)
        report.progress("unpacking the weights")
        model, tensors = _model_of_gguf(file, config, None)
    except UNREADABLE as error:
        raise _unreadable(file, error) from error
    _split_digits(tokenizer, metadata)
    tokenizer.save_pretrained(folder)
    model.generation_config = _generation_config(config, tokenizer, metadata)
    _save(model, tensors, folder, report)


def convert_stage(file: Path, folder: Path, spec: StageSpec, report: child.Reporter) -> None:
    """Write only what a stage reads. Raises as :func:`convert_gguf`."""
    try:
        config = AutoConfig.from_pretrained(str(file.parent), gguf_file=file.name)
        report.progress(f"unpacking the weights of stage {spec.stage}, layers {spec.start} to {spec.end - 1}")
        model, tensors = _model_of_gguf(file, config, spec)
    except UNREADABLE as error:
        raise _unreadable(file, error) from error
    _save(model, tensors, folder, report)


def _unreadable(file: Path, error: Exception) -> ModelSourceError:
    first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return ModelSourceError("model", str(file), f"this GGUF file cannot be converted: {first_line}")


def _save(model: PreTrainedModel, tensors: dict[str, torch.Tensor], folder: Path, report: child.Reporter) -> None:
    report.progress(f"writing {sum(t.numel() for t in tensors.values()) / 1e6:.3g}M parameters as safetensors")
    model.save_pretrained(folder, state_dict=tensors, max_shard_size=SHARD_SIZE)


def _model_of_gguf(
    file: Path, config: PreTrainedConfig, spec: StageSpec | None
) -> tuple[PreTrainedModel, dict[str, torch.Tensor]]:
    """A model without weights that can save the file's: one that came straight from a GGUF file refuses to."""
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    dtype = _stored_dtype(file)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    tied = set(model.all_tied_weights_keys)
    expected = [name for name, _ in model.named_parameters(remove_duplicate=False) if name not in tied]
    if spec is not None:
        ends = Ends.named(config.tie_word_embeddings, expected)
        expected = [name for name in expected if needs(spec, name, ends)]
    tensors = _unpack(file, model, dtype, spec)
    if missing := sorted(set(expected) - set(tensors)):
        raise ValueError(f"{len(missing)} tensors are missing in it, e.g. {missing[0]}")
    for name in expected:
        wanted = model.get_parameter(name).shape
        if tensors[name].shape != wanted:
            raise ValueError(f"{name} has the shape {tuple(tensors[name].shape)} instead of {tuple(wanted)}")
    config.dtype = dtype
    return model, {name: tensors[name] for name in expected}


def _unpack(file: Path, model: PreTrainedModel, dtype: torch.dtype, spec: StageSpec | None) -> dict[str, torch.Tensor]:
    """The tensors of the file by transformers' names; for a stage without those of others' layers."""

    read = gguf.GGUFReader

    def reader(path: str) -> object:
        opened = read(path)
        if spec is not None:
            opened.tensors = [tensor for tensor in opened.tensors if _is_of(tensor.name, spec)]
        return opened

    # transformers has no way to leave tensors out; it unpacks those that the reader tells of. A process of its own.
    with mock.patch.object(gguf, "GGUFReader", reader):
        loaded = load_gguf_checkpoint(str(file), return_tensors=True, model_to_load=model, torch_dtype=dtype)
    tensors: dict[str, torch.Tensor] = loaded["tensors"]
    return tensors


def _is_of(name: str, spec: StageSpec) -> bool:
    layer = _BLOCK.match(name)
    return layer is None or spec.start <= int(layer[1]) < spec.end


def _stored_dtype(file: Path) -> torch.dtype:
    """The file's own float type; bfloat16, as models are published, when its weights are quantized."""
    types = check_gguf(file)
    if not types <= set(FLOATS):
        return torch.bfloat16
    # Norms are float32 in every file, so that a 16-bit type beside it is the model's.
    return next((FLOATS[kind] for kind in (BFLOAT16, FLOAT16) if kind in types), torch.float32)


def _split_digits(tokenizer: PreTrainedTokenizerBase, metadata: dict[str, object]) -> None:
    if metadata.get("tokenizer.ggml.pre") not in SINGLE_DIGIT_VOCABULARIES:
        return
    backend: Tokenizer = tokenizer.backend_tokenizer
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), backend.pre_tokenizer]
    )


def _generation_config(
    config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase, metadata: dict[str, object]
) -> GenerationConfig:
    """Which tokens end an answer: all that the file names, and the end of turn that its chat template writes."""
    named = [metadata.get(f"tokenizer.ggml.{key}_token_id") for key in ("eos", "eot", "eom")]
    ends = [token for token in named if isinstance(token, int)]
    template = str(metadata.get("tokenizer.chat_template", ""))
    vocabulary = tokenizer.get_vocab()
    ends += [vocabulary[text] for text in END_OF_TURN if text in template and text in vocabulary]
    unique = list(dict.fromkeys(ends))
    config.eos_token_id = unique[0] if len(unique) == 1 else unique or None
    return GenerationConfig(
        bos_token_id=config.bos_token_id, eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id
    )


if __name__ == "__main__":
    sys.exit(child.main(work))
