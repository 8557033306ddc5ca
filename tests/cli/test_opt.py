"""`sdcomp opt`: passes over IR text."""

import io
from pathlib import Path

import pytest

from sdcomp.passes.registry import pass_names
from tests.cli.command import run_here

TEXT = """graph g {
  %0 = constant {dtype = "f32", shape = (2,), values = (1.0,)} : f32[2]
  %1 = constant {dtype = "f32", shape = (2,), values = (2.0, 3.0)} : f32[2]
  %2 = add(%0, %1) : f32[2]
  %3 = input {dtype = "f32", name = "x", rate = "eval", shape = (4, 2)} : f32[4,2]
  %4 = mul(%3, %2) : f32[4,2]
  return y = %4
}
"""

FOLDED = """graph g {
  %0 = input {dtype = "f32", name = "x", rate = "eval", shape = (4, 2)} : f32[4,2]
  %1 = constant {dtype = "f32", shape = (2,), values = (3.0, 4.0)} : f32[2]
  %2 = mul(%0, %1) : f32[4,2]
  return y = %2
}
"""


def test_runs_a_pass(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "g.sdir"
    path.write_text(TEXT)
    assert run_here(capsys, "opt", "-p", "fold-constants", path).out == FOLDED


def test_options_of_a_pass(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "g.sdir"
    path.write_text(TEXT)
    result = run_here(capsys, "opt", "-p", "fold_constants{limit=1}", path)
    assert (result.code, "add" in result.out) == (0, True)


def test_passes_run_in_order_on_standard_input(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(TEXT))
    result = run_here(capsys, "opt", "-p", "eliminate_common", "-p", "fold_constants")
    assert (result.code, result.out) == (0, FOLDED)


def test_without_passes_text_is_printed_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "g.sdir"
    path.write_text(FOLDED)
    assert run_here(capsys, "opt", path).out == FOLDED


def test_lists_every_pass_with_its_options(capsys: pytest.CaptureFixture[str]) -> None:
    out = run_here(capsys, "opt", "--list").out
    assert [line.partition(":")[0].partition("{")[0] for line in out.splitlines()] == pass_names()
    assert "fold_constants{limit=4096}: " in out


@pytest.mark.parametrize(
    ("arguments", "text", "code", "words"),
    [
        (["-p", "fold_everything"], TEXT, 2, "no such pass"),
        (["-p", "fold_constants{depth=1}"], TEXT, 2, "no option"),
        ([], TEXT.replace("add(", "add["), 1, "line 4"),
        ([], TEXT.replace("%2) : f32[4,2]", "%2) : f32[4,3]"), 1, "mul"),
        ([], "\x00", 1, "line 1"),
    ],
)
def test_errors(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], text: str, code: int, words: str
) -> None:
    path = tmp_path / "g.sdir"
    path.write_text(text)
    result = run_here(capsys, "opt", *arguments, path)
    assert (result.code, result.out) == (code, "")
    assert result.err.startswith("error: ")
    assert words in result.err.splitlines()[0]
    assert "Traceback" not in result.err
