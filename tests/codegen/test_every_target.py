"""Kernels compile for targets that this machine cannot run, into that machine's code."""

import struct

import pytest

from sdcomp.codegen.compile import emit_assembly, emit_object, new_module
from sdcomp.codegen.targets import TARGETS, Target
from tests.codegen.assembly import function, fused
from tests.codegen.case import Build
from tests.codegen.families import FAMILIES
from tests.codegen.jit import runnable_targets

FOREIGN = [pytest.param(t, id=t.name) for t in TARGETS.values() if t not in runnable_targets()]
ELF_MACHINE = {"x86_64": 62, "aarch64": 183}
"""e_machine of the ELF specification."""

VECTOR_MULTIPLIES = ("attention", "contraction", "layer_norm", "microkernel", "softmax", "pointwise")


def emit(builds: dict[str, Build], target: Target) -> tuple[object, list[str]]:
    """A module with every distinct kernel, and the symbols."""
    kernels = dict.fromkeys(build(target).kernel for build in builds.values())
    module = new_module("foreign", target)
    symbols = [f"kernel_{number}" for number in range(len(kernels))]
    for kernel, symbol in zip(kernels, symbols, strict=True):
        kernel.emit(module, symbol, target)
    return module, symbols


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("target", FOREIGN)
def test_objects(target: Target, family: str) -> None:
    """An ELF file for that machine which defines every kernel; of the larger families every third case."""
    builds = dict(list(FAMILIES[family].items())[:: 3 if family in ("attention", "contraction") else 1])
    module, symbols = emit(builds, target)
    content = emit_object(module, target)
    (machine,) = struct.unpack_from("<H", content, 18)
    assert content[:4] == b"\x7fELF"
    assert machine == ELF_MACHINE[target.triple.partition("-")[0]]
    assert all(f"\0{symbol}\0".encode() in content for symbol in symbols)


@pytest.mark.parametrize("family", VECTOR_MULTIPLIES)
@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_multiplies_are_fused_vectors(target: Target, family: str) -> None:
    """Arithmetic is on vectors, with one rounding per multiply and add."""
    name = list(FAMILIES[family])[-1]
    module, _ = emit({name: FAMILIES[family][name]}, target)
    text = emit_assembly(module, target)
    functions = [
        line.rstrip(":") for line in text.splitlines() if line.endswith(":") and not line.startswith(".")
    ]
    assert sum(fused(function(text, symbol), target) for symbol in functions if symbol[0] in "km") > 0
