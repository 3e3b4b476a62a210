"""Tiny random models of every verified family, and what transformers itself makes of them.

Sizes are odd on purpose: widths that ranks do not divide, fewer KV heads than ranks, heads that are not hidden / heads,
windows shorter than the texts. Weights are drawn wide, so that the best two tokens of a text lie apart.
"""

from __future__ import annotations

import atexit
import functools
import json
import math
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedModel

transformers.utils.logging.disable_progress_bar()

VOCAB = 307
"""256 bytes, three special tokens, 48 pairs of letters. Prime, so that no number of ranks divides it."""
BOS, EOS, PAD = 256, 257, 258
LAYERS = 5
MIN_MARGIN = 1e-3
"""Texts for parity keep the best two tokens so far apart: float32 products differ by 2e-6 between row counts."""

CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@dataclass(frozen=True)
class TinyFamily:
    """How to make one tiny model."""

    config: str
    """Name of transformers' config class."""
    settings: dict[str, Any]
    possible_tp: tuple[int, ...]
    """Ranks that divide it."""
    seed: int = 0
    tied: bool = False
    shard_bytes: str | None = None
    """Save in several files of at most this size."""
    gain: float = 1.2
    """Of the layers' matrices. Higher where the embedding would drown the layers, and a text would repeat itself."""
    embedding_gain: float = 3.0


def _gqa(hidden: int, heads: int, kv: int, head_dim: int | None, inner: int, **more: Any) -> dict[str, Any]:
    sizes = {"hidden_size": hidden, "num_attention_heads": heads, "num_key_value_heads": kv, "intermediate_size": inner}
    return sizes | ({"head_dim": head_dim} if head_dim else {}) | more


FAMILIES: dict[str, TinyFamily] = {
    "llama": TinyFamily("LlamaConfig", _gqa(48, 12, 2, 6, 53), (1, 2, 4, 6, 12), shard_bytes="40KB"),
    "llama-tied": TinyFamily("LlamaConfig", _gqa(36, 6, 3, 6, 50), (1, 3, 6), tied=True, gain=2.0, embedding_gain=1.5),
    "qwen2": TinyFamily("Qwen2Config", _gqa(48, 6, 1, None, 61), (1, 2, 3, 6), tied=True, gain=2.0, embedding_gain=1.5),
    "qwen3": TinyFamily("Qwen3Config", _gqa(40, 6, 3, 16, 47), (1, 3, 6)),
    "mistral": TinyFamily("MistralConfig", _gqa(40, 4, 2, 12, 51, sliding_window=7), (1, 2, 4)),
    "gemma3": TinyFamily(
        "Gemma3TextConfig",
        _gqa(
            40,
            4,
            1,
            14,
            45,
            sliding_window=6,
            layer_types=[
                "sliding_attention",
                "full_attention",
                "sliding_attention",
                "sliding_attention",
                "full_attention",
            ],
            query_pre_attn_scalar=11,
            final_logit_softcapping=7.0,
        ),
        (1, 2, 4),
        tied=True,
        embedding_gain=1.0,
    ),
    "phi3": TinyFamily("Phi3Config", _gqa(48, 6, 2, None, 43, sliding_window=9), (1, 2, 3, 4, 5, 6)),
    "olmo2": TinyFamily("Olmo2Config", _gqa(36, 6, 3, None, 55), (1, 2, 3, 4, 5, 6)),
    "granite": TinyFamily(
        "GraniteConfig",
        _gqa(
            40,
            4,
            2,
            None,
            49,
            embedding_multiplier=3.0,
            logits_scaling=0.6,
            residual_multiplier=0.7,
            attention_multiplier=0.2,
        ),
        (1, 2, 4),
        tied=True,
        gain=2.5,
        embedding_gain=1.0,
    ),
    "gpt-neox": TinyFamily(
        "GPTNeoXConfig",
        {"hidden_size": 48, "num_attention_heads": 6, "intermediate_size": 58, "rotary_pct": 0.25},
        (1, 2, 3, 6),
        gain=2.0,
    ),
    "mixtral": TinyFamily(
        "MixtralConfig",
        _gqa(40, 4, 2, None, 24, num_local_experts=5, num_experts_per_tok=2),
        (1, 2, 4),
    ),
    "qwen3-moe": TinyFamily(
        "Qwen3MoeConfig",
        _gqa(
            32,
            6,
            3,
            10,
            37,
            moe_intermediate_size=20,
            num_experts=6,
            num_experts_per_tok=3,
            norm_topk_prob=True,
            mlp_only_layers=[1],
        ),
        (1, 3, 6),
    ),
}

VARIANTS: dict[str, TinyFamily] = {
    "phi3-longrope": TinyFamily(
        "Phi3Config",
        _gqa(
            48,
            6,
            3,
            None,
            40,
            max_position_embeddings=96,
            original_max_position_embeddings=16,
            rope_parameters={
                "rope_type": "longrope",
                "rope_theta": 10000.0,
                "factor": 6.0,
                "short_factor": [1.0, 1.1, 1.2, 1.3],
                "long_factor": [1.5, 2.0, 3.0, 4.0],
                "original_max_position_embeddings": 16,
            },
        ),
        (1, 2, 3, 4, 5, 6),
    ),
}
"""Models that equal transformers under conditions of their own only. longrope: where all texts are longer than its
original length of 16, or no sequence may be, since its factors are chosen by the longest sequence that may come."""


def make_tiny_model(family: str, folder: Path, **settings: int) -> None:
    """Write a family's or variant's canonical folder, always the same: config, weights, tokenizer, chat template.

    ``settings`` are other values of its config.
    """
    spec = FAMILIES.get(family) or VARIANTS[family]
    config = getattr(transformers, spec.config)(
        **{"max_position_embeddings": 256}
        | spec.settings
        | {
            "vocab_size": VOCAB,
            "num_hidden_layers": LAYERS,
            "tie_word_embeddings": spec.tied,
            "bos_token_id": BOS,
            "eos_token_id": EOS,
            "pad_token_id": PAD,
        }
        | settings
    )
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    _draw_weights(model, spec)
    model.save_pretrained(folder, **({"max_shard_size": spec.shard_bytes} if spec.shard_bytes else {}))
    _write_tokenizer(folder)


@functools.cache
def tiny_model(family: str) -> Path:
    """The folder of ``family``, made once in this process and removed at its end."""
    folder = _home() / family
    make_tiny_model(family, folder)
    return folder


@functools.cache
def _home() -> Path:
    home = Path(tempfile.mkdtemp(prefix="tiny-models-"))
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    return home


def _draw_weights(model: PreTrainedModel, spec: TinyFamily) -> None:
    noise = torch.Generator().manual_seed(spec.seed)
    zero_centred = type(model).__name__.startswith("Gemma")
    for name, parameter in sorted(model.named_parameters()):
        drawn = torch.randn(parameter.shape, generator=noise)
        if "embed" in name:
            drawn *= spec.embedding_gain / math.sqrt(parameter.shape[-1])
        elif parameter.ndim >= 2:
            drawn *= (3 if "lm_head" in name else spec.gain) / math.sqrt(parameter.shape[-1])
        elif name.endswith("bias"):
            drawn *= 0.3
        else:
            drawn = 0.2 * drawn + (0 if zero_centred else 1)
            drawn += 3 if zero_centred and ".post_" in name else 0
        with torch.no_grad():
            parameter.copy_(drawn)


def _write_tokenizer(folder: Path) -> None:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [(first, second) for first in "etaoin" for second in "shrdlucm"]
    special = ["<|bos|>", "<|eos|>", "<|pad|>"]
    tokens = [*alphabet, *special, *(first + second for first, second in merges)]
    tokenizer = Tokenizer(models.BPE(vocab={token: index for index, token in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in special])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"bos_token": special[0], "eos_token": special[1], "pad_token": special[2]}
    (folder / "tokenizer_config.json").write_text(
        json.dumps(settings | {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": CHAT_TEMPLATE})
    )


@functools.lru_cache(maxsize=4)
def reference_model(folder: Path) -> PreTrainedModel:
    """The whole model as transformers loads it, float32."""
    model: PreTrainedModel = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model.eval()


def reference_greedy(folder: Path, prompts: Sequence[Sequence[int]], max_tokens: int) -> list[list[int]]:
    """The tokens that transformers' greedy ``generate`` appends to each prompt; end-of-sequence is ignored.

    Raises:
        ValueError: somewhere the best two tokens are so close that rounding could swap them; choose another prompt.
    """
    found = []
    for prompt in prompts:
        tokens, margin = _generate(folder, tuple(prompt), max_tokens)
        if margin < MIN_MARGIN:
            raise ValueError(f"{folder.name}: margin {margin:.1e} after the prompt {list(prompt)}")
        found.append(list(tokens))
    return found


@functools.cache
def _generate(folder: Path, prompt: tuple[int, ...], max_tokens: int) -> tuple[tuple[int, ...], float]:
    model = reference_model(folder)
    made: Any = model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        do_sample=False,
        max_new_tokens=max_tokens,
        eos_token_id=None,
        output_logits=True,
        return_dict_in_generate=True,
    )
    logits_TV = torch.cat(made.logits).float()
    best_T2 = logits_TV.topk(2).values
    return tuple(made.sequences[0, len(prompt) :].tolist()), float((best_T2[:, 0] - best_T2[:, 1]).min())


def reference_logprobs(folder: Path, sequences: Sequence[Sequence[int]]) -> list[torch.Tensor]:
    """For each sequence [T, V]: log probabilities of the token after each position, float32."""
    model = reference_model(folder)
    with torch.no_grad():
        return [model(torch.tensor([list(tokens)])).logits[0].float().log_softmax(-1) for tokens in sequences]


def parity_prompts(folder: Path, lengths: Sequence[int], max_tokens: int, seed: int = 0) -> list[list[int]]:
    """Random prompts of the given lengths whose greedy continuations keep the margin; the same in every run."""
    noise = torch.Generator().manual_seed(seed)
    found = []
    for length in lengths:
        for _ in range(50):
            prompt = torch.randint(0, 256, (length,), generator=noise).tolist()
            if _generate(folder, tuple(prompt), max_tokens)[1] >= MIN_MARGIN:
                found.append(prompt)
                break
        else:
            raise ValueError(f"{folder.name}: no prompt of {length} tokens keeps the margin")
    return found
