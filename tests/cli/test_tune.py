"""`sdcomp tune`, and builds that use what it wrote."""

from pathlib import Path

import pytest

from sdcomp.cli.main import main
from sdcomp.codegen.costs import ALGORITHMS, MEASURED, PARTS, Costs, cache_path, load_costs
from sdcomp.codegen.targets import TARGETS, Target, is_runnable, resolve
from tests.cli.command import run_here


@pytest.fixture
def _measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A measurement that takes no time, and a cache of the test's own."""

    def measure(target: Target, progress: object) -> Costs:
        del progress
        return Costs(target, "here", MEASURED, {name: dict.fromkeys(PARTS, 0.25) for name in ALGORITHMS})

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("sdcomp.codegen.tune.measure_costs", measure)


@pytest.mark.usefixtures("_measured")
def test_writes_what_builds_use(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    result = run_here(capsys, "tune")
    assert result.code == 0
    path = cache_path(resolve("native"))
    assert result.out.splitlines()[-1] == f"{path}: written"
    assert "F(4,3) of 2x" in result.out
    assert load_costs(resolve("native")).source == MEASURED
    assert run_here(capsys, "tune", "-o", tmp_path / "copy.json").code == 0
    assert (tmp_path / "copy.json").read_bytes() == path.read_bytes()


@pytest.mark.usefixtures("_measured")
def test_a_target_of_another_machine_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    foreign = next(target.name for target in TARGETS.values() if not is_runnable(target))
    result = run_here(capsys, "tune", "--target", foreign)
    assert result.code == 2
    assert "this machine cannot run it" in result.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("_measured")
def test_a_damaged_file_stops_a_build_in_words(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = cache_path(resolve("native"))
    path.parent.mkdir()
    path.write_text("{")
    capsys.readouterr()
    assert main(["build", "model.safetensors", "-o", str(tmp_path / "model.so")]) == 1
    err = capsys.readouterr().err
    assert "is no file of costs" in err
    assert "Traceback" not in err
    assert not (tmp_path / "model.so").exists()
