"""Runs kernels in this process, without a linker: LLVM's JIT over the very same code."""

import ctypes
from collections.abc import Iterable, Mapping
from typing import Any

import llvmlite.binding as llvm
import numpy as np

from sdcomp.codegen.compile import emit_object, machine, new_module
from sdcomp.codegen.kernels.base import Kernel
from sdcomp.codegen.targets import Target
from sdcomp.ir.types import Array

FUNCTION = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)
"""`sdcomp_kernel_function` of plan.h: operands, scratch, first tile, end of tiles."""

_LINE_BYTES = 64


class Jit:
    """Compiled kernels; keep it alive while they run. The target must be one that this machine runs."""

    def __init__(self, symbols: Mapping[Kernel, str], target: Target) -> None:
        module = new_module("jit", target)
        for kernel, symbol in symbols.items():
            kernel.emit(module, symbol, target)
        builder = llvm.JITLibraryBuilder().add_object_img(emit_object(module, target)).add_current_process()
        for symbol in symbols.values():
            builder.export_symbol(symbol)
        self._engine = llvm.create_lljit_compiler(machine(target))
        self._library = builder.link(self._engine, "kernels")
        self.functions: dict[Kernel, Any] = {
            kernel: FUNCTION(self._library[symbol]) for kernel, symbol in symbols.items()
        }

    @classmethod
    def of(cls, kernels: Iterable[Kernel], target: Target) -> "Jit":
        """Each distinct kernel once."""
        return cls({kernel: f"kernel_{n}" for n, kernel in enumerate(dict.fromkeys(kernels))}, target)


def aligned_bytes(size: int, value: int = 0) -> Array:
    """`size` bytes of one value at the boundary of a cache line, with room behind them."""
    room = np.full(size + 3 * _LINE_BYTES, value, np.uint8)
    start = -room.ctypes.data % _LINE_BYTES
    return room[start : start + size]
