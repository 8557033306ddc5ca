"""What this machine can do: the rate of the compiler's own micro-kernel, with its data in the first cache."""

import ctypes
from concurrent.futures import ThreadPoolExecutor

import llvmlite.binding as llvm
import numpy as np

from benchmarks.cases import Array, Program
from sdcomp.codegen.builder import I64, POINTER, new_function
from sdcomp.codegen.compile import emit_object, machine, new_module
from sdcomp.codegen.jit import aligned_bytes
from sdcomp.codegen.kernels.microkernel import MicroKernel
from sdcomp.codegen.targets import Target, resolve

import llvmlite.ir as ir  # isort: skip

_SYMBOL = "repeated_micro_kernel"
_FUNCTION = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)
CALLS = 40_000
"""Some ten milliseconds: starting the threads must not show."""


def load_micro_kernel(threads: int) -> Program:
    """The micro-kernel on this many threads at once, each with its own data.

    It has the rows and vectors that kernels have on this machine; its panel fills half of the first-level
    cache.
    """
    target = resolve("native")
    width = target.panel_vectors * target.lanes
    depth = target.l1_bytes // (8 * width)
    kernel = MicroKernel(target.tile_rows(target.panel_vectors), target.panel_vectors, depth, 1)
    sizes = (kernel.rows * depth, depth * width, kernel.rows * width)
    data = [[_ones(size) for size in sizes] for _ in range(threads)]
    engine = llvm.create_lljit_compiler(machine(target))
    code = llvm.JITLibraryBuilder().add_object_img(_repeated(kernel, depth, target)).export_symbol(_SYMBOL)
    library = code.link(engine, "machine")
    pool = ThreadPoolExecutor(threads)

    def run(arrays: list[Array]) -> Array:
        function = _FUNCTION(library[_SYMBOL])  # here, so that the library lives as long as the program
        function(*(array.ctypes.data for array in arrays), CALLS)
        return arrays[-1]

    multiplies = threads * CALLS * kernel.rows * depth * width
    return Program(lambda: list(pool.map(run, data)), multiplies, list)


def _ones(size: int) -> Array:
    array = aligned_bytes(4 * size).view(np.float32)
    array.fill(1)
    return array


def _repeated(kernel: MicroKernel, depth: int, target: Target) -> bytes:
    """void (A, B, C, i64 calls), as an object file: the micro-kernel over the same data again and again."""
    module = new_module("machine", target)
    e = new_function(module, _SYMBOL, [POINTER, POINTER, POINTER, I64], target, internal=False)
    a, b, c, calls = e.function.args
    with e.loop(0, calls):
        kernel.call(e, a, b, c, depth, ir.Constant(ir.IntType(1), 0))
    e.b.ret_void()
    return emit_object(module, target)
