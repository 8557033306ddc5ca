"""The judge of the example's pictures, against scenes whose truth is known because they were drawn."""

import numpy as np
import pytest
from PIL import Image, ImageFilter

from examples.tinyshapes.captions import random_scene
from examples.tinyshapes.judge import Verdict, hull_area, judge, largest_area, roughness
from examples.tinyshapes.shapes import COLOURS, SHAPES, Scene, Shape, draw_scene

KINDS = tuple(SHAPES)


def scenes(kind: str, count: int) -> list[Scene]:
    """Random scenes of one shape of this kind, in every size and place that captions know."""
    generator = np.random.default_rng(KINDS.index(kind))
    drawn = (random_scene(generator, [kind])[0] for _ in range(10 * count))
    return [scene for scene in drawn if len(scene.shapes) == 1][:count]


def truth(scene: Scene) -> Verdict:
    return Verdict(scene.background, scene.shapes[0].colour, scene.shapes[0].kind)


@pytest.mark.parametrize("kind", KINDS)
def test_drawn_scenes_are_recognised(kind: str) -> None:
    for scene in scenes(kind, 20):
        assert judge(draw_scene(scene)) == truth(scene), scene


@pytest.mark.parametrize("kind", KINDS)
def test_soft_edges_and_grain_do_not_matter(kind: str) -> None:
    generator = np.random.default_rng(0)
    right = 0
    for scene in scenes(kind, 20):
        blurred = Image.fromarray(draw_scene(scene)).filter(ImageFilter.GaussianBlur(1))
        grainy = np.asarray(blurred) + generator.normal(0, 6, (64, 64, 3))
        right += judge(np.clip(grainy, 0, 255).astype(np.uint8)) == truth(scene)
    assert right >= 18


def test_other_sides_of_the_same_scene_are_judged_alike() -> None:
    scene = Scene("white", (Shape("star", "blue", (50.0, 40.0), 30.0),))
    assert judge(draw_scene(scene, side=112)) == truth(scene)


def test_an_empty_picture_has_no_shape() -> None:
    for name, colour in COLOURS.items():
        assert judge(np.full((64, 64, 3), colour, np.uint8)) == Verdict(name, "none", "none")


def test_wrong_answers_are_told_apart() -> None:
    """A judge that always agreed would pass the tests above on one scene; these differ in one thing each."""
    verdicts = {
        judge(draw_scene(Scene(background, (Shape(kind, colour, (32.0, 32.0), 19.0),))))
        for kind in KINDS
        for colour in ("red", "cyan")
        for background in ("black", "white")
    }
    assert len(verdicts) == len(KINDS) * 2 * 2


def test_the_largest_area_is_found() -> None:
    mask = np.zeros((8, 8), bool)
    mask[0, 0] = mask[2:5, 2:5] = True
    assert largest_area(mask).sum() == 9
    assert not largest_area(np.zeros((8, 8), bool)).any()


def test_the_hull_of_a_square_and_of_an_angle() -> None:
    square = np.zeros((16, 16), bool)
    square[2:7, 3:13] = True
    assert hull_area(square) == 50
    angle = np.zeros((16, 16), bool)
    angle[0:10, 0] = angle[9, 0:10] = True
    assert hull_area(angle) == 100 - 9 * 9 / 2


def test_hatching_is_rough() -> None:
    for scene in scenes("circle", 5):
        hatched = Scene(scene.background, scene.shapes, "hatched")
        assert roughness(draw_scene(hatched)) > 2 * roughness(draw_scene(scene))
