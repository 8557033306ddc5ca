"""Contact sheets: a table of small pictures, with a label to every column and row."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

ENLARGED = 2
GAP = 12
FONT_SIZE = 14
LINE = 20
LABEL_CHARACTERS = 24
LABEL_WIDTH = 176


def contact_sheet(rows: Sequence[str], columns: "Mapping[str, Sequence[Picture]]") -> "Picture":
    """One picture of all, each enlarged without smoothing; `columns` have one picture of one size per row."""
    from PIL import Image, ImageDraw, ImageFont

    first = next(iter(columns.values()))[0]
    width, height = first.width * ENLARGED, first.height * ENLARGED
    size = (LABEL_WIDTH + len(columns) * (width + GAP) + GAP, LINE + GAP + len(rows) * (height + GAP))
    sheet = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(FONT_SIZE)
    tops = [LINE + GAP + number * (height + GAP) for number in range(len(rows))]
    for top, label in zip(tops, rows, strict=True):
        draw.multiline_text((GAP, top), textwrap.fill(label, LABEL_CHARACTERS), "black", font)
    for number, (label, pictures) in enumerate(columns.items()):
        left = LABEL_WIDTH + number * (width + GAP)
        draw.text((left, GAP / 2), label, "black", font)
        for top, picture in zip(tops, pictures, strict=True):
            sheet.paste(picture.resize((width, height), Image.Resampling.NEAREST), (left, top))
    return sheet
