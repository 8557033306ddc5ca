"""Targets are data: what they say about registers and caches, and which of them a machine is given."""

import pytest

from sdcomp.codegen import targets
from sdcomp.codegen.compile import emit_object, new_module
from sdcomp.codegen.kernels.movement import StridedCopy
from sdcomp.codegen.targets import TARGETS, Target, resolve
from sdcomp.errors import CodegenError, UsageError


def given(monkeypatch: pytest.MonkeyPatch, machine: str, *features: str) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr(targets, "host_features", lambda: frozenset(features))


@pytest.mark.parametrize("name", ["x86-64-v3", "x86-64-v4"])
def test_native_is_the_widest_that_the_machine_has(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    given(monkeypatch, "x86_64", *TARGETS[name].features)
    assert resolve("native") is TARGETS[name]


def test_one_missing_feature_is_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, "x86_64", *TARGETS["x86-64-v4"].features[:-1])
    assert resolve("native") is TARGETS["x86-64-v3"]


@pytest.mark.parametrize("machine", ["aarch64", "arm64"])
def test_arm(monkeypatch: pytest.MonkeyPatch, machine: str) -> None:
    given(monkeypatch, machine)
    assert resolve("native") is TARGETS["aarch64"]


def test_an_old_machine_is_told_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, "x86_64", "sse4.2")
    with pytest.raises(UsageError, match=r"x86_64.*avx2"):
        resolve("native")


def test_unknown_target_names_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"sparc.*native.*x86-64-v3.*aarch64"):
        resolve("sparc")


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_vectors_are_as_wide_as_registers(target: Target) -> None:
    """16, 32 or 64 bytes; gated panels need an even number of vectors."""
    width = {"neon": 16, "avx2": 32, "avx512f": 64}
    assert 4 * target.lanes == max(size for feature, size in width.items() if feature in target.features)
    assert target.panel_vectors % 2 == 0


def test_code_that_llvm_rejects_is_a_codegen_error() -> None:
    """With LLVM's words."""
    target = resolve("native")
    module = new_module("broken", target)
    StridedCopy((4,), (1,), (1,)).emit(module, "kernel", target)
    module.functions[0].blocks[0].instructions.pop()
    with pytest.raises(CodegenError, match="broken: LLVM rejects"):
        emit_object(module, target)
