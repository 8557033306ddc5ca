"""Contact sheets show every pixel of every picture, and labels."""

import numpy as np
import pytest
from PIL import Image

from sdcomp.sheet import ENLARGED, contact_sheet


def test_every_picture_is_there_enlarged() -> None:
    colours = {"first": ["red", "lime"], "second": ["blue", "yellow"]}
    columns = {
        label: [Image.new("RGB", (20, 10), name) for name in names] for label, names in colours.items()
    }
    sheet = contact_sheet(["above", "below"], columns)
    centres: dict[str, tuple[float, float]] = {}
    for name in ("red", "lime", "blue", "yellow"):
        value = Image.new("RGB", (1, 1), name).getpixel((0, 0))
        rows, places = np.nonzero((np.asarray(sheet) == value).all(axis=2))
        assert len(rows) == 20 * 10 * ENLARGED**2
        centres[name] = (rows.mean(), places.mean())
    assert centres["red"][0] == centres["blue"][0] < centres["lime"][0] == centres["yellow"][0]
    assert centres["red"][1] == centres["lime"][1] < centres["blue"][1] == centres["yellow"][1]


def test_labels_are_drawn() -> None:
    picture = {"": [Image.new("RGB", (16, 16), "white")]}
    blank, labelled = contact_sheet([""], picture), contact_sheet(["a row"], picture)
    assert np.asarray(blank).min() == 255
    assert np.asarray(labelled).min() < 64


def test_a_row_without_its_picture_is_an_error() -> None:
    with pytest.raises(ValueError, match="shorter"):
        contact_sheet(["one", "two"], {"": [Image.new("RGB", (4, 4))]})
