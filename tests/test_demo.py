"""The demonstration draws every prompt with every artifact, and says how long everything took."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sdcomp import demo
from sdcomp.demo import COLUMNS, PROMPTS, make_demo
from sdcomp.errors import UsageError


def test_make_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two columns and two prompts, which is enough to see that they differ."""
    labels = ("without adapter", "both")
    monkeypatch.setattr(demo, "COLUMNS", {label: COLUMNS[label] for label in labels})
    monkeypatch.setattr(demo, "PROMPTS", PROMPTS[:2])
    stages: list[str] = []
    made = make_demo(tmp_path / "new" / "demo", lambda stage, done, total: stages.append(stage))
    assert {"without adapter: compile", "both: pictures"} <= set(stages)
    for label in labels:
        assert made.artifacts[label].stat().st_size > demo.CHECKPOINT.stat().st_size / 2
        assert made.build_seconds[label] > 0
        assert len(made.picture_seconds[label]) == 2
        assert all(seconds > 0 for seconds in made.picture_seconds[label])
    sheet = Image.open(made.sheet)
    assert all(prompt in sheet.info["parameters"] for prompt in PROMPTS[:2])
    pixels = np.asarray(sheet.convert("RGB")).reshape(-1, 3)
    assert len(np.unique(pixels, axis=0)) > 100


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UsageError, match="cannot be written"):
        make_demo(tmp_path / "file", lambda stage, done, total: None)
