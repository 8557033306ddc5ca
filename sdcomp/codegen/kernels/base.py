"""What every kernel is: static data that emits one function over a range of independent tiles."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager

from sdcomp.codegen.builder import I64, POINTER, Emitter, Value, new_function
from sdcomp.codegen.targets import Target

ARGUMENTS = (POINTER, POINTER, I64, I64)
"""void *const *operands, void *scratch, int64_t begin, int64_t end: `sdcomp_kernel_function` of plan.h."""


class Kernel(ABC):
    """A frozen dataclass of static shapes.

    Equal kernels are emitted once, whatever buffers they are called with.
    """

    kind: str

    @property
    @abstractmethod
    def tiles(self) -> int:
        """Number of independent tiles."""

    @property
    def grain(self) -> int:
        """Tiles that are not worth splitting between workers."""
        return 1

    def scratch_bytes(self, target: Target) -> int:
        """Memory that one call needs for itself."""
        return 0

    @property
    def multiplies(self) -> int:
        """Multiply-accumulates of one run, for reports and priorities."""
        return 0

    @property
    def work(self) -> Mapping[str, int]:
        """Elements that each part of one run handles: what `codegen/costs.py` has times for."""
        return {}

    @abstractmethod
    def emit_tile(self, e: Emitter, tile: Value) -> None:
        """Emits the work of one tile; `e` is inside the loop over tiles."""

    def emit(self, module: object, symbol: str, target: Target) -> None:
        """Adds the kernel's function to an llvmlite module."""
        e = new_function(module, symbol, ARGUMENTS, target, internal=False)
        begin, end = e.function.args[2:]
        with each_tile(e, begin, end) as tile:
            self.emit_tile(e, tile)
        e.b.ret_void()


def each_tile(e: Emitter, begin: Value, end: Value) -> AbstractContextManager[Value]:
    """The loop over the tiles of one call."""
    return e.loop(begin, end)


def operand(e: Emitter, index: int) -> Value:
    """Pointer number `index` of the kernel's operand table."""
    return e.load(e.function.args[0], index, POINTER)


def scratch(e: Emitter, offset_floats: int = 0) -> Value:
    """The worker's scratch memory, `offset_floats` f32 in."""
    return e.at(e.function.args[1], offset_floats)
