"""What a machine fetches for a stage, told from names alone, is what that stage's ranks read of the files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from stageline_engine.core.deployment import StageSpec
from stageline_engine.models.stage_model import load_stage_model
from stageline_engine.models.tensor_group import SoloGroup
from stageline_engine.sources import spans
from stageline_engine.sources.stage_bytes import stage_bytes
from support.stage_pipeline import even_split, rank_settings
from support.tiny_folder import write_named_tensors
from support.tiny_models import FAMILIES, LAYERS, tiny_model


def count(folder: Path, spec: StageSpec) -> int:
    return sum(map(spans.length, stage_bytes(folder, spec).values()))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_stage_of_every_family_is_given_what_it_reads(family: str) -> None:
    folder = tiny_model(family)
    for stages in (1, 2, 3):
        for stage in range(stages):
            settings = rank_settings(folder, stage=stage, ranges=even_split(LAYERS, stages))
            assert count(folder, settings.spec) == load_stage_model(settings, 0, SoloGroup()).bytes_read


@pytest.mark.parametrize("family", [name for name, family in FAMILIES.items() if family.tied])
def test_a_tied_model_is_known_by_what_it_stores_where_its_config_does_not_say(family: str, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_model(family), tmp_path / family)
    config = json.loads((folder / "config.json").read_text())
    config.pop("tie_word_embeddings", None)
    (folder / "config.json").write_text(json.dumps(config))
    for stage in range(2):
        spec = rank_settings(folder, stage=stage, ranges=even_split(LAYERS, 2)).spec
        assert count(folder, spec) == count(tiny_model(family), spec)


NAMES = ["model.embed_tokens.weight", "lm_head.weight", "model.norm.weight", "model.layers.1.w", "model.layers.9.w"]
FIRST = StageSpec(stage=0, num_stages=3, start=0, end=1, tp=1)
MIDDLE = StageSpec(stage=1, num_stages=3, start=1, end=2, tp=1)
LAST = StageSpec(stage=2, num_stages=3, start=2, end=3, tp=1)


@pytest.mark.parametrize(
    ("tied", "stored", "first", "last"),
    [
        (True, NAMES, {"embed_tokens"}, {"embed_tokens", "norm"}),
        (True, NAMES[1:], {"lm_head"}, {"lm_head", "norm"}),
        (False, NAMES, {"embed_tokens"}, {"lm_head", "norm"}),
        # Either may be read, so both must be there.
        (None, NAMES, {"embed_tokens"}, {"embed_tokens", "lm_head", "norm"}),
        (None, NAMES[:1] + NAMES[2:], {"embed_tokens"}, {"embed_tokens", "norm"}),
    ],
)
def test_the_ends_are_given_what_ties_make_of_them(
    tmp_path: Path, tied: bool | None, stored: list[str], first: set[str], last: set[str]
) -> None:
    folder = write_named_tensors(tmp_path, stored, {} if tied is None else {"tie_word_embeddings": tied})
    bytes_of = {name.split(".")[-2]: 4 * (index + 1) for index, name in enumerate(stored)}
    assert count(folder, FIRST) == sum(bytes_of[module] for module in first)
    assert count(folder, LAST) == sum(bytes_of[module] for module in last)


def test_a_tensor_whose_name_says_nothing_is_given_to_all_and_a_layer_of_no_stage_to_none(tmp_path: Path) -> None:
    folder = write_named_tensors(tmp_path, ["strange", "model.strange.weight", *NAMES], {})
    assert count(folder, MIDDLE) == 4 * 1 + 4 * 2 + 4 * (2 + NAMES.index("model.layers.1.w") + 1)
