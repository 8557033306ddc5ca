"""The demonstration writes two different pictures, and both side by side."""

from pathlib import Path

import numpy as np
from PIL import Image

from sdcomp.demo import OPTIONS, SIZE, make_demo, side_by_side


def test_make_demo(tmp_path: Path) -> None:
    stages: list[str] = []
    folder = tmp_path / "new" / "demo"
    made = make_demo(folder, lambda stage, done, total: stages.append(stage))
    plain, adapted = Image.open(made.plain), Image.open(made.adapted)
    assert plain.size == adapted.size == SIZE
    first, second = (np.asarray(picture, np.float32) for picture in (plain, adapted))
    assert np.linalg.norm(first - second) / np.linalg.norm(first) > 0.05
    assert first.std() > 1
    assert "lokr: 1" in adapted.info["parameters"]
    assert "lokr" not in plain.info["parameters"]
    assert OPTIONS.prompt in plain.info["parameters"]
    sheet = np.asarray(Image.open(made.sheet))
    assert (sheet == np.asarray(side_by_side([plain, adapted]))).all()
    assert {"without adapter: compile", "with adapter: sampling"} <= set(stages)
    assert all(seconds > 0 for seconds in made.seconds.values())


def test_side_by_side_keeps_every_pixel() -> None:
    left, right = Image.new("RGB", (8, 4), "red"), Image.new("RGB", (2, 6), "blue")
    sheet = np.asarray(side_by_side([left, right]))
    assert (sheet == (255, 0, 0)).all(axis=-1).sum() == 32
    assert (sheet == (0, 0, 255)).all(axis=-1).sum() == 12
