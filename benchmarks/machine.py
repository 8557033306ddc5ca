"""What this machine can do: the rate of the compiler's own micro-kernel, with its data in the first cache."""

import ctypes
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from benchmarks.cases import Array, Program
from sdcomp.codegen.builder import I1, Emitter, Value
from sdcomp.codegen.jit import Jit, aligned_bytes
from sdcomp.codegen.kernels.base import Kernel, operand
from sdcomp.codegen.kernels.microkernel import MicroKernel
from sdcomp.codegen.targets import Target, resolve

CALLS = 40_000
"""Some ten milliseconds: starting the threads must not show."""


@dataclass(frozen=True)
class RepeatedMicroKernel(Kernel):
    """A call of the micro-kernel for each tile, always over the same data. Operands: A, B, C."""

    micro: MicroKernel
    width: int
    depth: int

    kind = "repeated_micro_kernel"

    @staticmethod
    def of(target: Target) -> "RepeatedMicroKernel":
        """With the rows and vectors that kernels have; the panel fills half of the first-level cache."""
        width = target.panel_vectors * target.lanes
        depth = target.l1_bytes // (8 * width)
        rows = target.tile_rows(target.panel_vectors)
        return RepeatedMicroKernel(MicroKernel(rows, target.panel_vectors, depth, 1), width, depth)

    @property
    def tiles(self) -> int:
        return CALLS

    @property
    def multiplies(self) -> int:
        return CALLS * self.micro.rows * self.depth * self.width

    @property
    def sizes(self) -> tuple[int, int, int]:
        """f32 in each operand."""
        return self.micro.rows * self.depth, self.depth * self.width, self.micro.rows * self.width

    def emit_tile(self, e: Emitter, tile: Value) -> None:
        self.micro.call(e, operand(e, 0), operand(e, 1), operand(e, 2), self.depth, I1(0))


def load_micro_kernel(threads: int) -> Program:
    """The micro-kernel on this many threads at once, each with its own data."""
    target = resolve("native")
    kernel = RepeatedMicroKernel.of(target)
    jit, pool = Jit.of([kernel], target), ThreadPoolExecutor(threads)
    data = [[_ones(size) for size in kernel.sizes] for _ in range(threads)]

    def run(arrays: list[Array]) -> Array:
        operands = (ctypes.c_void_p * len(arrays))(*(array.ctypes.data for array in arrays))
        jit.functions[kernel](ctypes.addressof(operands), None, 0, kernel.tiles)
        return arrays[-1]

    return Program(lambda: list(pool.map(run, data)), threads * kernel.multiplies, list)


def _ones(size: int) -> Array:
    array = aligned_bytes(4 * size).view(np.float32)
    array.fill(1)
    return array
