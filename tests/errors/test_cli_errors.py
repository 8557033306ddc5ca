"""What a user does wrong is one line on stderr and an exit code; nothing is left behind."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sdcomp.frontend.synthetic import SMALL, write_random_checkpoint
from sdcomp.frontend.synthetic_lokr import write_random_lokr
from tests.cli.command import run_here


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """model.safetensors, style.safetensors, text.txt and an empty folder `empty`."""
    folder = tmp_path_factory.mktemp("inputs")
    write_random_checkpoint(folder / "model.safetensors", SMALL)
    write_random_lokr(folder / "style.safetensors", SMALL)
    (folder / "text.txt").write_text("not a model" * 10)
    (folder / "library.so").write_bytes(b"\x7fELF" + bytes(5000))
    (folder / "empty").mkdir()
    return folder


BUILD = ["build", "model.safetensors", "-o", "empty/model.so"]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["build", "model.safetensors"], 2, "Missing option"),
        (["build", "missing.safetensors", "-o", "empty/model.so"], 1, "missing.safetensors: no such file"),
        (["build", "empty", "-o", "empty/model.so"], 1, "is a folder"),
        (["build", "text.txt", "-o", "empty/model.so"], 1, "text.txt: "),
        (["build", "style.safetensors", "-o", "empty/model.so"], 1, "an adapter, not a checkpoint"),
        (["build", "model.safetensors", "-o", "nowhere/model.so"], 2, "folder nowhere does not exist"),
        (["build", "model.safetensors", "-o", "empty"], 2, "is a folder"),
        ([*BUILD, "--size", "512"], 2, "--size 512: expected WIDTHxHEIGHT"),
        ([*BUILD, "--size", "510x512"], 2, "510"),
        ([*BUILD, "--weights", "q4"], 2, "--weights q4: expected one of auto, f32, f16"),
        ([*BUILD, "--target", "z80"], 2, "--target z80: unknown"),
        ([*BUILD, "--threads", "-1"], 2, "--threads"),
        ([*BUILD, "--threads", "many"], 2, "--threads"),
        ([*BUILD, "--heads", "5"], 1, "heads"),
        ([*BUILD, "--prediction", "v"], 1, "only eps is"),
        ([*BUILD, "--lokr", "style.safetensors:strong"], 2, "'strong' is not a finite number"),
        ([*BUILD, "--lokr", "style.safetensors:nan"], 2, "'nan' is not a finite number"),
        ([*BUILD, "--lokr", "missing.safetensors:0.5"], 1, "missing.safetensors: no such file"),
        ([*BUILD, "--lokr", "model.safetensors"], 1, "is it a checkpoint?"),
        ([*BUILD, "--magic"], 2, "--magic"),
        (["run", "missing.so", "-p", "x", "-o", "empty/x.png"], 1, "missing.so: No such file"),
        (["run", "text.txt", "-p", "x", "-o", "empty/x.png"], 1, "not a shared library"),
        (["run", "library.so", "-p", "x", "-o", "empty/x.png"], 1, "carries no weights payload"),
        (["run", "library.so"], 2, "Missing option"),
        (["inspect", "missing.so"], 1, "missing.so: no such file"),
        (["inspect", "empty"], 1, "empty: is not a file"),
        (["inspect", "text.txt"], 1, "text.txt: "),
        (["inspect", "library.so"], 1, "carries no weights payload"),
        (["opt", "missing.sdir"], 2, "missing.sdir: cannot be read"),
        (["opt", "model.safetensors"], 1, "not UTF-8"),
        (["demo", "-o", "text.txt"], 2, "text.txt: cannot be written"),
        (["paint"], 2, "paint"),
    ],
)
def test_one_line_and_a_code(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    code: int,
    words: str,
) -> None:
    monkeypatch.chdir(folder)
    result = run_here(capsys, *arguments)
    last = result.err.splitlines()[-1]
    assert result.code == code
    assert last.startswith("error: ")
    assert words in last
    assert result.err.count("error: ") == 1
    assert "Traceback" not in result.err
    assert os.listdir("empty") == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_unwritable_folder(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tmp_path.chmod(0o500)
    result = run_here(capsys, "build", folder / "model.safetensors", "-o", tmp_path / "model.so")
    assert result.code == 2
    assert "not writable" in result.err


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("SDCOMP_DEBUG", "9", "expected 0 to 5"),
        ("SDCOMP_DEBUG", "all", "expected"),
        ("SDCOMP_TRACE", "no/t.json", "its folder"),
    ],
)
def test_environment(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    value: str,
    words: str,
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv(name, value)
    result = run_here(capsys, "run", "library.so", "-p", "x", "-o", "empty/x.png")
    assert result.code == 2
    assert result.err.startswith(f"error: {name}={value}: ")
    assert words in result.err


@pytest.mark.parametrize(
    ("failure", "code", "text"),
    [
        (KeyboardInterrupt, 130, "interrupted\n"),
        (MemoryError, 1, "error: out of memory; close other programs, or ask for a smaller size\n"),
    ],
)
def test_what_can_happen_anywhere(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    failure: Callable[[], BaseException],
    code: int,
    text: str,
) -> None:
    def fail(*arguments: object) -> None:
        del arguments
        raise failure()

    monkeypatch.setattr("sdcomp.passes.registry.pass_names", fail)
    result = run_here(capsys, "opt", "--list")
    assert (result.code, result.err) == (code, text)


def test_a_bug_is_not_hidden(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("sdcomp.passes.registry.pass_names", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        run_here(capsys, "opt", "--list")


def test_a_closed_pipe_is_quiet() -> None:
    command = f"{sys.executable} -m sdcomp opt --list | true"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.stderr == ""
