"""Runs kernels and programs in the test's own process, one thread, without a linker: LLVM's JIT over the very same code."""

import ctypes
from collections.abc import Callable, Mapping

import llvmlite.binding as llvm
import numpy as np

from sdcomp.codegen.compile import emit_object, machine, new_module
from sdcomp.codegen.kernels.base import Kernel
from sdcomp.codegen.module import name_kernels
from sdcomp.codegen.plan import Buffer, Program, Space
from sdcomp.codegen.targets import Target
from sdcomp.ir.graph import Node
from sdcomp.ir.interpret import evaluate
from sdcomp.ir.types import Array
from sdcomp.passes.plan_memory import plan_memory
from sdcomp.passes.split_parallel import split_parallel

FUNCTION = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)


def aligned(size: int) -> Array:
    """Bytes at a 64-byte boundary, filled with NaN so that reading what nobody wrote shows."""
    room = np.full(size + 192, 0xFF, np.uint8)
    start = -room.ctypes.data % 64
    return room[start : start + size]


class Jit:
    """Compiled kernels by symbol; keep it alive while they run."""

    def __init__(self, symbols: Mapping[Kernel, str], target: Target) -> None:
        module = new_module("jit", target)
        for kernel, symbol in symbols.items():
            kernel.emit(module, symbol, target)
        builder = llvm.JITLibraryBuilder().add_object_img(emit_object(module, target)).add_current_process()
        for symbol in symbols.values():
            builder.export_symbol(symbol)
        self._engine = llvm.create_lljit_compiler(machine(target))
        self._library = builder.link(self._engine, "kernels")
        self._functions = {kernel: FUNCTION(self._library[symbol]) for kernel, symbol in symbols.items()}
        self._target = target

    def run(self, kernel: Kernel, pointers: list[int], step: int = 0) -> None:
        """All tiles; `step` at a time if given."""
        table = (ctypes.c_void_p * len(pointers))(*pointers)
        scratch = aligned(kernel.scratch_bytes(self._target))
        for begin in range(0, kernel.tiles, step or kernel.tiles):
            end = min(kernel.tiles, begin + (step or kernel.tiles))
            self._functions[kernel](ctypes.addressof(table), scratch.ctypes.data, begin, end)


def run_kernel(kernel: Kernel, target: Target, arrays: list[Array], step: int = 0) -> None:
    """One kernel over numpy arrays (any of them may be written)."""
    Jit({kernel: "kernel"}, target).run(kernel, [a.ctypes.data for a in arrays], step)


def run_programs(
    programs: list[Program], target: Target, inputs: Mapping[str, Array], weights: Callable[[Node], Array]
) -> dict[str, Array]:
    """Runs the programs in order, sharing state; returns all outputs. The arena is planned as in an artifact."""
    jit = Jit(name_kernels(programs), target)
    kept: dict[Buffer, Array] = {}
    results: dict[str, Array] = {}
    given = {name: np.ascontiguousarray(value) for name, value in inputs.items()}
    for program in programs:
        plan = plan_memory(split_parallel(program))
        arena = aligned(plan.bytes)
        results |= {n: np.full(t.shape, np.nan, t.dtype.numpy) for n, t in program.outputs.items()}

        def address(buffer: Buffer, plan=plan, arena=arena) -> int:
            if buffer.space is Space.ARENA:
                return arena.ctypes.data + plan.offsets[buffer]
            if buffer.space is Space.INPUT:
                return given[buffer.name].ctypes.data
            if buffer.space is Space.OUTPUT:
                return results[buffer.name].ctypes.data
            if buffer not in kept:
                kept[buffer] = aligned(buffer.bytes)
                if buffer.weight is not None:
                    packed = buffer.weight.layout.pack(np.asarray(evaluate(buffer.weight.node, weights)))
                    kept[buffer][:] = packed.view(np.uint8).ravel()
            return kept[buffer].ctypes.data

        for call in program.calls:
            jit.run(call.kernel, [address(o.buffer) + o.offset for o in call.operands])
    return results
