"""docs/ir.md is what the op table says."""

from pathlib import Path

from sdcomp.ir import document
from sdcomp.ir.ops import OPS

ROOT = Path(__file__).parents[2]


def test_page_is_current() -> None:
    page = (ROOT / document.PATH).read_text(encoding="utf-8")
    assert page == document.document(), "run python -m sdcomp.ir.document"


def test_page_has_every_operation() -> None:
    page = document.document()
    assert all(f"| `{name}" in page and row.meaning in page for name, row in OPS.items())
