"""Runs kernels and programs in the test's own process, one thread, over memory that nobody has written."""

import ctypes
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from sdcomp.codegen import jit
from sdcomp.codegen.kernels.base import Kernel
from sdcomp.codegen.module import name_kernels
from sdcomp.codegen.plan import Buffer, Program, Space
from sdcomp.codegen.targets import TARGETS, Target, is_runnable
from sdcomp.ir.graph import Node
from sdcomp.ir.interpret import evaluate
from sdcomp.ir.types import Array
from sdcomp.passes.plan_memory import MemoryPlan, plan_memory
from sdcomp.passes.split_parallel import split_parallel

UNWRITTEN = 0xFF
"""Every byte that nobody has written: as f32, f16 and f64 it is NaN, so that reading it shows."""


def runnable_targets() -> list[Target]:
    """The targets whose instructions this machine has."""
    return [target for target in TARGETS.values() if is_runnable(target)]


def aligned(size: int) -> Array:
    """Unwritten bytes at a 64-byte boundary."""
    return jit.aligned_bytes(size, UNWRITTEN)


class Jit(jit.Jit):
    """Compiled kernels that find nothing written when they start."""

    def __init__(self, symbols: Mapping[Kernel, str], target: Target) -> None:
        super().__init__(symbols, target)
        self._target = target

    def run(self, kernel: Kernel, pointers: Sequence[int], order: Sequence[int] | None = None) -> None:
        """All tiles in one call; or one call for each tile of `order`, with unwritten scratch memory every
        time.
        """
        table = (ctypes.c_void_p * len(pointers))(*pointers)
        for begin, end in [(0, kernel.tiles)] if order is None else [(tile, tile + 1) for tile in order]:
            scratch = aligned(kernel.scratch_bytes(self._target))
            self.functions[kernel](ctypes.addressof(table), scratch.ctypes.data, begin, end)


WeightReader = Callable[[Node], Array]


@dataclass
class _Memory:
    """All memory of one artifact: what the runtime would allocate, map or get from the caller."""

    inputs: Mapping[str, Array]
    weights: WeightReader
    kept: dict[Buffer, Array] = field(default_factory=dict)
    outputs: dict[str, Array] = field(default_factory=dict)

    def address(self, buffer: Buffer, plan: MemoryPlan, arena: Array) -> int:
        if buffer.space is Space.ARENA:
            return int(arena.ctypes.data) + plan.offsets[buffer]
        if buffer.space is Space.INPUT:
            return int(self.inputs[buffer.name].ctypes.data)
        if buffer.space is Space.OUTPUT:
            return int(self.outputs[buffer.name].ctypes.data)
        if buffer not in self.kept:
            self.kept[buffer] = self._fill(buffer)
        return int(self.kept[buffer].ctypes.data)

    def _fill(self, buffer: Buffer) -> Array:
        content = aligned(buffer.bytes)
        if buffer.weight is not None:
            packed = buffer.weight.layout.pack(np.asarray(evaluate(buffer.weight.node, self.weights)))
            content[:] = packed.view(np.uint8).ravel()
        return content


def run_programs(
    programs: Sequence[Program], target: Target, inputs: Mapping[str, Array], weights: WeightReader
) -> dict[str, Array]:
    """Runs the programs in order, sharing state; returns all outputs. The arena is planned as in an
    artifact.
    """
    compiled = Jit(name_kernels(programs), target)
    memory = _Memory({name: np.ascontiguousarray(value) for name, value in inputs.items()}, weights)
    for program in programs:
        plan = plan_memory(split_parallel(program))
        arena = aligned(plan.bytes)
        memory.outputs |= {
            name: aligned(kind.bytes).view(kind.dtype.numpy).reshape(kind.shape)
            for name, kind in program.outputs.items()
        }
        for call in program.calls:
            places = [memory.address(o.buffer, plan, arena) + o.offset for o in call.operands]
            compiled.run(call.kernel, places)
    return memory.outputs
