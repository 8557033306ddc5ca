"""What this machine can do: the rate of the compiler's own micro-kernel, with its data in the first cache."""

import ctypes
import time

import llvmlite.binding as llvm
import numpy as np

from sdcomp.codegen.builder import I64, POINTER, new_function
from sdcomp.codegen.compile import emit_object, machine, new_module
from sdcomp.codegen.jit import aligned_bytes
from sdcomp.codegen.kernels.microkernel import MicroKernel
from sdcomp.codegen.targets import Target, resolve

import llvmlite.ir as ir  # isort: skip

_SYMBOL = "repeated_micro_kernel"
_FUNCTION = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)
_CALLS = 4000
_BURSTS = 50


def peak_rate() -> float:
    """Multiply-accumulates per second of one thread: the fastest of many bursts of some milliseconds.

    The micro-kernel has the rows and vectors that kernels have on this machine; its panel fills half of the
    first-level cache.
    """
    target = resolve("native")
    width = target.panel_vectors * target.lanes
    depth = target.l1_bytes // (8 * width)
    kernel = MicroKernel(target.tile_rows(target.panel_vectors), target.panel_vectors, depth, 1)
    sizes = (kernel.rows * depth, depth * width, kernel.rows * width)
    arrays = [aligned_bytes(4 * size) for size in sizes]
    for array in arrays:
        array.view(np.float32).fill(1)
    pointers = [array.ctypes.data for array in arrays]
    engine = llvm.create_lljit_compiler(machine(target))
    code = llvm.JITLibraryBuilder().add_object_img(_repeated(kernel, depth, target)).export_symbol(_SYMBOL)
    library = code.link(engine, "machine")
    function = _FUNCTION(library[_SYMBOL])
    seconds = []
    for _ in range(_BURSTS):
        begin = time.perf_counter()
        function(*pointers, _CALLS)
        seconds.append(time.perf_counter() - begin)
    return _CALLS * kernel.rows * depth * width / min(seconds)


def _repeated(kernel: MicroKernel, depth: int, target: Target) -> bytes:
    """void (A, B, C, i64 calls), as an object file: the micro-kernel over the same data again and again."""
    module = new_module("machine", target)
    e = new_function(module, _SYMBOL, [POINTER, POINTER, POINTER, I64], target, internal=False)
    a, b, c, calls = e.function.args
    with e.loop(0, calls):
        kernel.call(e, a, b, c, depth, ir.Constant(ir.IntType(1), 0))
    e.b.ret_void()
    return emit_object(module, target)
