"""The trained example draws what its prompts name, and its adapters do what they were trained for."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from examples.tinyshapes.evaluate import compiled_picture, reference_pictures
from examples.tinyshapes.judge import judge, roughness
from examples.tinyshapes.shapes import CONCEPT as CONCEPT_KIND
from examples.tinyshapes.table import COUNT, Row, heart_rows, judge_all, rows
from sdcomp.demo import CHECKPOINT, CONCEPT, STYLE
from sdcomp.runtime.pipeline import Pipeline
from tests.examples.conftest import OTHER_SIZE

STYLE_MARGIN = 1.5


def sample(count: int) -> list[Row]:
    return rows()[:: COUNT // count]


def test_pictures_show_what_their_prompts_name(plain: Pipeline) -> None:
    right = judge_all([compiled_picture(plain, row) for row in rows()])
    assert sum(right) >= 0.9 * COUNT, [row for row, good in zip(rows(), right, strict=True) if not good]


def test_the_compiled_model_draws_what_diffusers_draws(plain: Pipeline) -> None:
    table = sample(4)
    torch.set_num_threads(1)
    theirs = reference_pictures(CHECKPOINT, table)
    for row, picture in zip(table, theirs, strict=True):
        difference = np.abs(compiled_picture(plain, row).astype(int) - picture)
        assert difference.max() <= 3, row


def test_an_adapter_does_what_lycoris_does_with_it(style: Pipeline, concept: Pipeline) -> None:
    """Folded weights are rounded to f16 once more, which twenty steps may carry to a few levels of colour."""
    torch.set_num_threads(1)
    table = sample(2)
    for model, adapter in ((style, STYLE), (concept, CONCEPT)):
        for row, theirs in zip(table, reference_pictures(CHECKPOINT, table, adapter), strict=True):
            assert np.abs(compiled_picture(model, row).astype(int) - theirs).mean() < 1, row


def test_the_style_changes_texture_at_strength_one_and_nothing_at_zero(
    plain: Pipeline, style: Pipeline, style_at_zero: Pipeline
) -> None:
    table = sample(8)
    before = [compiled_picture(plain, row) for row in table]
    unchanged = [compiled_picture(style_at_zero, row) for row in table]
    after = [compiled_picture(style, row) for row in table]
    np.testing.assert_array_equal(unchanged, before)
    assert np.mean([*map(roughness, after)]) > STYLE_MARGIN * np.mean([*map(roughness, before)])


def test_the_concept_is_known_with_its_adapter_alone(plain: Pipeline, concept: Pipeline) -> None:
    hearts = [
        sum(judge(compiled_picture(model, row)).kind == CONCEPT_KIND for row in heart_rows())
        for model in (plain, concept)
    ]
    assert hearts[0] <= 2
    assert hearts[1] >= 6


def test_a_size_that_it_was_not_trained_on(plain: Pipeline) -> None:
    for row in sample(4):
        picture = compiled_picture(plain, row, OTHER_SIZE)
        assert picture.shape == (OTHER_SIZE[1], OTHER_SIZE[0], 3)
        assert picture.std() > 10


@pytest.mark.parametrize(("path", "limit"), [(CHECKPOINT, 16e6), (STYLE, 300e3), (CONCEPT, 300e3)])
def test_files_are_small_and_say_what_they_are(path: Path, limit: float) -> None:
    assert path.stat().st_size < limit
    with safe_open(path, "np") as file:
        metadata = file.metadata()
    assert metadata["modelspec.license"] == "Apache-2.0"
    assert "tinyshapes" in metadata["modelspec.title"]


def test_what_kinds_of_factors_the_adapters_have() -> None:
    """One has full factors only, the other decomposed ones too, those of convolutions among them."""
    names = {}
    for path in (STYLE, CONCEPT):
        with safe_open(path, "np") as file:
            names[path] = set(file.keys())
    assert {name.rsplit(".", 1)[1] for name in names[STYLE]} == {"alpha", "lokr_w1", "lokr_w2"}
    assert "lora_unet_down_blocks_2_resnets_0_conv2.lokr_w2_a" in names[CONCEPT]
    assert "lora_unet_down_blocks_2_attentions_0_transformer_blocks_0_attn2_to_q.lokr_w2_b" in names[CONCEPT]
