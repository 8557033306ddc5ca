"""The upper levels of SDCOMP_DEBUG; the lower ones are part of the tests of build and run."""

import pytest

from sdcomp.cli.debug import ASSEMBLY, LLVM, PASSES, debug_level, kernel_observer
from sdcomp.codegen.kernels.base import Kernel
from sdcomp.codegen.kernels.rows import LayerNorm
from sdcomp.codegen.targets import TARGETS
from sdcomp.errors import UsageError

KERNELS: dict[Kernel, str] = {LayerNorm(4, 8, 8, 8, 1e-5): "kernel_0_layer_norm"}


def test_no_kernels_below_level_4() -> None:
    assert kernel_observer(PASSES) is None


@pytest.mark.parametrize(("level", "has_assembly"), [(LLVM, False), (ASSEMBLY, True)])
def test_kernels(level: int, has_assembly: bool, capsys: pytest.CaptureFixture[str]) -> None:
    observe = kernel_observer(level)
    assert observe is not None
    observe(KERNELS, TARGETS["x86-64-v3"])
    err = capsys.readouterr().err
    assert 'define void @"kernel_0_layer_norm"' in err
    assert ("ymm" in err) == has_assembly


def test_levels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SDCOMP_DEBUG", raising=False)
    assert debug_level() == 0
    for level in range(6):
        monkeypatch.setenv("SDCOMP_DEBUG", str(level))
        assert debug_level() == level
    for text in ("6", "-1", "x", " 1"):
        monkeypatch.setenv("SDCOMP_DEBUG", text)
        with pytest.raises(UsageError, match="expected 0 to 5"):
            debug_level()
