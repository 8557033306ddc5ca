"""Object files of a set of kernels are made once in a row, and made anew for another set or target."""

from typing import Any

import pytest

from sdcomp.codegen import module
from sdcomp.codegen.kernels.movement import StridedCopy
from sdcomp.codegen.targets import TARGETS


def test_the_same_kernels_are_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[str] = []

    def emit_object(llvm_module: Any, target: Any) -> bytes:
        compiled.append(target.name)
        return str(llvm_module).encode()

    monkeypatch.setattr(module, "emit_object", emit_object)
    target, other = TARGETS["x86-64-v3"], TARGETS["aarch64"]
    first = {StridedCopy((4, 4), (4, 1), (4, 1)): "kernel_of_this_test"}
    second = {StridedCopy((4, 4), (4, 1), (1, 4)): "kernel_of_this_test"}
    objects = module.emit_objects(first, target)
    assert module.emit_objects(dict(first), target) == objects
    assert len(compiled) == 1
    assert module.emit_objects(second, target) != objects
    assert module.emit_objects(second, other) != objects
    assert compiled == ["x86-64-v3", "x86-64-v3", "aarch64"]


def test_what_a_caller_does_with_the_list_stays_with_it() -> None:
    symbols = {StridedCopy((2, 2), (2, 1), (2, 1)): "another_kernel"}
    module.emit_objects(symbols, TARGETS["x86-64-v3"]).clear()
    assert module.emit_objects(symbols, TARGETS["x86-64-v3"])
