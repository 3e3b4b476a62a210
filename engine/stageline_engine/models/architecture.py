"""From a model folder's config.json to transformers' own classes, built without weights; refuses what cannot be cut.

A skeleton is the causal model on the meta device: right shapes and names, no memory.
"""

from __future__ import annotations

import inspect
import json
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from stageline_engine.core.errors import ModelSourceError, UnsupportedModelError
from stageline_engine.models import attention
from stageline_engine.models.families import Family, family_of

_LAYER_ARGUMENTS = frozenset(
    (
        *("self", "hidden_states", "attention_mask", "position_ids", "position_embeddings", "kwargs"),
        *("past_key_values", "past_key_value", "layer_past", "use_cache", "cache_position"),
        *("output_attentions", "output_router_logits"),
    )
)
"""What a decoder layer may take; anything else (KV of another layer, indices, per-layer inputs) would be state that
crosses layers, and so a cut."""

_REFUSED = {
    "is_encoder_decoder": "has an encoder, which no stage runs",
    "use_bidirectional_attention": "attends to later tokens",
    "num_kv_shared_layers": "has layers that read the keys and values of others, perhaps of another stage",
    "kv_lora_rank": "has latent attention, whose cache has another shape",
}

# transformers swaps functions of torch.nn.init while it builds a model, for all threads of the process.
_building = threading.Lock()


@dataclass(frozen=True)
class Skeleton:
    """A causal model without weights, and the names of its parts."""

    causal: PreTrainedModel
    family: Family
    architecture: str
    base_prefix: str
    """Attribute of ``causal`` that holds the base model: ``model`` or ``gpt_neox``."""
    embedding: str
    """Attribute of the base model: the input embedding."""
    norms: tuple[str, ...]
    """Attributes of the base model that follow the layers."""

    @property
    def config(self) -> PreTrainedConfig:
        """The model's own configuration."""
        return self.causal.config

    @property
    def base(self) -> nn.Module:
        """The causal model without its output projection."""
        module = getattr(self.causal, self.base_prefix)
        assert isinstance(module, nn.Module)
        return module

    @property
    def layers(self) -> nn.ModuleList:
        """All decoder layers, by global index."""
        layers = self.base.layers
        assert isinstance(layers, nn.ModuleList)
        return layers


def read_config(model_folder: str | Path) -> PreTrainedConfig:
    """Read config.json.

    Raises:
        ModelSourceError: it is missing or is not JSON.
        UnsupportedModelError: transformers does not know the model type.
    """
    path = Path(model_folder) / "config.json"
    try:
        raw = json.loads(path.read_text())
    except FileNotFoundError:
        raise ModelSourceError("model", str(path), "the file is missing; give a folder with config.json") from None
    except (ValueError, OSError) as error:
        raise ModelSourceError(
            "model", str(path), f"the file cannot be read ({error}); fetch the model again"
        ) from error
    if not isinstance(raw, dict) or not raw.get("architectures"):
        raise ModelSourceError("model", str(path), "it names no architecture; give the config.json of a language model")
    if raw.get("quantization_config"):
        raise UnsupportedModelError(
            "quantization_config", raw["quantization_config"], "give a model with float32, bfloat16 or float16 weights"
        )
    try:
        return transformers.AutoConfig.from_pretrained(model_folder, local_files_only=True, trust_remote_code=False)
    except (ValueError, KeyError, TypeError, AttributeError, StrictDataclassError) as error:
        raise UnsupportedModelError(
            "model_type", raw.get("model_type"), f"transformers {transformers.__version__} cannot read it: {error}"
        ) from error


def build_skeleton(model_folder: str | Path, allow_unverified: bool) -> Skeleton:
    """Build the model of ``model_folder`` on the meta device, with paged attention.

    Raises:
        ModelSourceError: config.json is missing or damaged.
        UnsupportedModelError: no parity test covers the architecture, or it cannot be cut into stages.
    """
    config = read_config(model_folder)
    architecture = (config.architectures or [""])[0]
    family = family_of(architecture, allow_unverified)
    causal_class: Any = getattr(transformers, architecture, None)
    is_model = inspect.isclass(causal_class) and issubclass(causal_class, PreTrainedModel)
    if not is_model:
        raise UnsupportedModelError("architecture", architecture, f"transformers {transformers.__version__} lacks it")
    _refuse_config(config, architecture)
    config._attn_implementation = attention.NAME
    config.use_cache = False
    with _building, torch.device("meta"):
        causal: PreTrainedModel = causal_class(config)
    causal.requires_grad_(False)
    causal.eval()
    skeleton = _name_parts(causal, family, architecture)
    _refuse_cross_layer_state(skeleton)
    return skeleton


def _refuse_config(config: PreTrainedConfig, architecture: str) -> None:
    for field, reason in _REFUSED.items():
        if getattr(config, field, None):
            raise UnsupportedModelError(field, getattr(config, field), f"{architecture} {reason}")
    stateful = set(getattr(config, "layer_types", None) or ()) - {"full_attention", "sliding_attention"}
    if stateful:
        raise UnsupportedModelError(
            "layer_types", ", ".join(sorted(stateful)), f"{architecture} needs another state than keys and values"
        )
    for rope_type in rope_types(config):
        if "dynamic" in rope_type:
            raise UnsupportedModelError(
                "rope_type",
                rope_type,
                "its frequencies follow the longest row of a batch, so neighbours would change each other's tokens; "
                "give a model with another rope type",
            )


def rope_types(config: PreTrainedConfig) -> list[str]:
    """The rope types of a config, one for each layer type where they differ."""
    parameters = getattr(config, "rope_parameters", None) or {}
    per_type = [parameters] if "rope_type" in parameters else [p for p in parameters.values() if isinstance(p, dict)]
    return [str(p.get("rope_type", "default")) for p in per_type]


def _name_parts(causal: PreTrainedModel, family: Family, architecture: str) -> Skeleton:
    plan = list(getattr(causal.config, "base_model_pp_plan", None) or {})
    base = getattr(causal, causal.base_model_prefix, None)
    if "layers" not in plan or base is None or causal.get_output_embeddings() is None:
        raise UnsupportedModelError("architecture", architecture, "transformers has no pipeline plan for it")
    at = plan.index("layers")
    embedding = next(name for name, module in base.named_children() if module is causal.get_input_embeddings())
    norms = tuple(plan[at + 1 :])
    strangers = [
        name
        for name, module in base.named_children()
        if name not in (embedding, "layers", *norms) and next(module.parameters(), None) is not None
    ]
    if strangers:
        raise UnsupportedModelError(
            "architecture", architecture, f"{', '.join(strangers)} belongs neither to the layers nor to one of the ends"
        )
    return Skeleton(
        causal=causal,
        family=family,
        architecture=architecture,
        base_prefix=causal.base_model_prefix,
        embedding=embedding,
        norms=norms,
    )


def _refuse_cross_layer_state(skeleton: Skeleton) -> None:
    for layer_class in {type(layer) for layer in skeleton.layers}:
        extra = set(inspect.signature(layer_class.forward).parameters) - _LAYER_ARGUMENTS
        if extra:
            raise UnsupportedModelError(
                "architecture",
                skeleton.architecture,
                f"its layers hand on {', '.join(sorted(extra))} besides hidden states",
            )
