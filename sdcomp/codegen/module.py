"""All kernels of an artifact as object files: equal kernels once, several LLVM modules at a time."""

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

from sdcomp.codegen.compile import emit_assembly, emit_object, new_module
from sdcomp.codegen.kernels.base import Kernel
from sdcomp.codegen.plan import Program
from sdcomp.codegen.targets import Target

_KERNELS_PER_MODULE = 16


def name_kernels(programs: Iterable[Program]) -> dict[Kernel, str]:
    """A symbol for each distinct kernel, in order of first use."""
    symbols: dict[Kernel, str] = {}
    for program in programs:
        for call in program.calls:
            symbols.setdefault(call.kernel, f"kernel_{len(symbols)}_{call.kernel.kind}")
    return symbols


def emit_objects(symbols: dict[Kernel, str], target: Target) -> list[bytes]:
    """Object files that define every symbol.

    The last ones are kept: the same model with other weights or adapters has the same kernels, so builds one
    after the other in one process compile once.
    """
    return list(_compiled(tuple(symbols.items()), target))


@lru_cache(maxsize=1)
def _compiled(symbols: tuple[tuple[Kernel, str], ...], target: Target) -> tuple[bytes, ...]:
    """LLVM runs outside of Python's lock, so modules are compiled side by side."""
    modules = _modules(dict(symbols), target)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return tuple(pool.map(lambda module: emit_object(module, target), modules))


def print_llvm(symbols: dict[Kernel, str], target: Target) -> str:
    """The LLVM IR as emitted, before optimisation."""
    return "\n".join(str(module) for module in _modules(symbols, target))


def print_assembly(symbols: dict[Kernel, str], target: Target) -> str:
    return "\n".join(emit_assembly(module, target) for module in _modules(symbols, target))


def _modules(symbols: dict[Kernel, str], target: Target) -> list[object]:
    """Kernels of one kind and depth share micro-kernels, so neighbours in this order go into one module."""
    kernels = sorted(symbols, key=lambda kernel: (kernel.kind, repr(kernel)))
    modules = []
    for start in range(0, len(kernels), _KERNELS_PER_MODULE):
        module = new_module(f"kernels_{start}", target)
        for kernel in kernels[start : start + _KERNELS_PER_MODULE]:
            kernel.emit(module, symbols[kernel], target)
        modules.append(module)
    return modules
