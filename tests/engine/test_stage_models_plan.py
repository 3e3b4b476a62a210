"""How models may be cut: possible rank counts, profiles for planning, refusals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import transformers

from stageline_engine.core.errors import ConfigurationError, UnsupportedModelError
from stageline_engine.models.families import VERIFIED
from stageline_engine.models.profile import build_profile
from stageline_engine.models.tensor_parallel import part
from support.stage_pipeline import load_pipeline
from support.tiny_models import FAMILIES, LAYERS, VOCAB, reference_model, tiny_model


def test_every_verified_architecture_has_a_tiny_model() -> None:
    made = {build_profile(tiny_model(family), False).architecture for family in FAMILIES}
    assert made == set(VERIFIED)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_profile_counts_every_parameter_once(family: str) -> None:
    profile = build_profile(tiny_model(family), False)
    layers = sum(layer.sharded_params + layer.replicated_params for layer in profile.layers)
    tied = VOCAB * profile.hidden_size if profile.tied_embeddings else 0
    assert profile.tied_embeddings == FAMILIES[family].tied
    total = layers + profile.embedding_params + profile.head_params - tied
    assert total == sum(parameter.numel() for parameter in reference_model(tiny_model(family)).parameters())
    assert len(profile.layers) == LAYERS
    assert profile.checkpoint_dtype == "float32"


def test_a_profile_says_what_planning_needs() -> None:
    profile = build_profile(tiny_model("gemma3"), False)
    assert [layer.sliding_window for layer in profile.layers] == [6, None, 6, 6, None]
    assert (profile.layers[0].kv_heads, profile.layers[0].head_dim) == (1, 14)
    assert (profile.hidden_size, profile.attention_heads, profile.max_model_len) == (40, 4, 256)


def test_only_chosen_experts_are_active() -> None:
    layer = build_profile(tiny_model("mixtral"), False).layers[0]
    experts = 5 * 3 * 40 * 24
    assert layer.active_params == layer.sharded_params + layer.replicated_params - experts * 3 // 5 - 2 * 40


@pytest.mark.parametrize("family", FAMILIES)
def test_ranks_hold_what_the_profile_says(family: str) -> None:
    profile = build_profile(tiny_model(family), False)
    tp = profile.possible_tp[-1]
    assert profile.possible_tp == FAMILIES[family].possible_tp
    for size in {profile.possible_tp[1], tp}:
        ranks = load_pipeline(tiny_model(family), [(0, LAYERS)], [size])[0]
        for rank in ranks:
            for kept, layer in zip(rank.kv_layers, profile.layers, strict=True):
                assert kept.kv_heads == (max(1, layer.kv_heads // size) if layer.kv_sharded else layer.kv_heads)
                assert (kept.head_dim, kept.sliding_window) == (layer.head_dim, layer.sliding_window)


def test_global_layer_indices_survive_the_cut() -> None:
    _, second = load_pipeline(tiny_model("gemma3"), [(0, 2), (2, LAYERS)], [1, 1])
    assert [(layer.layer_idx, layer.sliding_window) for layer in second[0].kv_layers] == [(2, 6), (3, 6), (4, None)]


@pytest.mark.parametrize(("family", "tp", "possible"), [("llama", 3, "1, 2, 4, 6, 12"), ("qwen3", 2, "1, 3, 6")])
def test_heads_that_ranks_do_not_divide_are_refused_with_the_possible_sizes(
    family: str, tp: int, possible: str
) -> None:
    with pytest.raises(ConfigurationError, match=rf"--tp={tp}.*possible sizes are {possible}$"):
        load_pipeline(tiny_model(family), [(0, LAYERS)], [tp])


def test_an_unknown_style_is_refused_and_never_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = dict(transformers.LlamaConfig.base_model_tp_plan) | {"layers.*.mlp.up_proj": "colwise_of_tomorrow"}
    monkeypatch.setattr(transformers.LlamaConfig, "base_model_tp_plan", plan)
    assert build_profile(tiny_model("llama"), False).possible_tp == (1,)
    with pytest.raises(UnsupportedModelError, match=r"colwise_of_tomorrow.*--tp 1"):
        load_pipeline(tiny_model("llama"), [(0, LAYERS)], [2])


def test_an_unverified_architecture_runs_only_on_demand(tmp_path: Path) -> None:
    config = transformers.StableLmConfig(
        hidden_size=24,
        intermediate_size=30,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=37,
    )
    transformers.StableLmForCausalLM(config).save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModelError, match="StableLm.*--allow-unverified-architecture"):
        build_profile(tmp_path, False)
    with pytest.raises(UnsupportedModelError, match="pipeline plan"):
        build_profile(tmp_path, True)


@pytest.mark.parametrize(
    ("config", "architecture", "said"),
    [
        (transformers.Gemma3nTextConfig(), "Gemma3nForCausalLM", "num_kv_shared_layers.*of others"),
        (transformers.DeepseekV3Config(), "DeepseekV3ForCausalLM", "kv_lora_rank.*latent"),
        (transformers.Qwen3NextConfig(), "Qwen3NextForCausalLM", "linear_attention.*another state"),
        (transformers.T5Config(), "T5ForConditionalGeneration", "is_encoder_decoder"),
    ],
)
def test_what_stages_cannot_hold_is_refused_even_on_demand(
    config: transformers.PreTrainedConfig, architecture: str, said: str, tmp_path: Path
) -> None:
    config.architectures = [architecture]
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
    with pytest.raises(UnsupportedModelError, match=said):
        build_profile(tmp_path, True)


def test_layers_that_take_more_than_hidden_states_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def forward(self: object, hidden_states: object, indices_of_the_layer_before: object, **kwargs: object) -> None: ...

    monkeypatch.setattr("transformers.models.llama.modeling_llama.LlamaDecoderLayer.forward", forward)
    with pytest.raises(UnsupportedModelError, match="indices_of_the_layer_before"):
        build_profile(tiny_model("llama"), False)


def test_uneven_parts_cover_a_width_without_gaps() -> None:
    parts = [part(53, rank, 4) for rank in range(4)]
    assert parts == [(0, 14), (14, 27), (27, 40), (40, 53)]
