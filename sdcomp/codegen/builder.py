"""A thin layer over llvmlite: f32 vectors of the target's width, loops, and pointers in elements.

Pointers are opaque; `at` steps in elements of a given type with GEP (never integer arithmetic, which LLVM
may miscompile). Vector intrinsics are declared by hand because llvmlite knows the scalar ones only.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import llvmlite.ir as ir

from sdcomp.codegen.targets import Target

Value = Any
"""An llvmlite value: the library has no type hints."""

F32, F16, F64 = ir.FloatType(), ir.HalfType(), ir.DoubleType()
I1, I16, I32, I64 = ir.IntType(1), ir.IntType(16), ir.IntType(32), ir.IntType(64)
POINTER = ir.PointerType()
ELEMENT = {"f32": F32, "f16": F16, "i32": I32}
ELEMENT_BYTES = {"f32": 4, "f16": 2, "i32": 4}


def i64(value: int) -> Value:
    return ir.Constant(I64, value)


def f32(value: float) -> Value:
    return ir.Constant(F32, value)


@dataclass
class Emitter:
    """Emits into one function for one target. `b` is the llvmlite builder, positioned at the current end."""

    module: Any
    function: Any
    b: Any
    target: Target

    # Types and constants

    @property
    def vector(self) -> Value:
        return ir.VectorType(F32, self.target.lanes)

    def splat(self, value: Value | float) -> Value:
        """Every lane the same f32."""
        if isinstance(value, int | float):
            return ir.Constant(self.vector, [float(value)] * self.target.lanes)
        lane0 = self.b.insert_element(ir.Constant(self.vector, ir.Undefined), value, ir.Constant(I32, 0))
        zeros = ir.Constant(ir.VectorType(I32, self.target.lanes), [0] * self.target.lanes)
        return self.b.shuffle_vector(lane0, ir.Constant(self.vector, ir.Undefined), zeros)

    def zeros(self) -> Value:
        return self.splat(0.0)

    # Memory: offsets count elements

    def at(self, pointer: Value, offset: Value | int, element: Value = F32) -> Value:
        offset = i64(offset) if isinstance(offset, int) else offset
        return self.b.gep(pointer, [offset], source_etype=element)

    def load(self, pointer: Value, offset: Value | int = 0, element: Value = F32) -> Value:
        return self.b.load(self.at(pointer, offset, element), typ=element, align=_alignment(element))

    def store(self, value: Value, pointer: Value, offset: Value | int = 0, element: Value = F32) -> None:
        self.b.store(value, self.at(pointer, offset, element), align=_alignment(element))

    def load_vector(self, pointer: Value, offset: Value | int = 0, dtype: str = "f32") -> Value:
        """`lanes` consecutive elements as f32; halves are widened."""
        element = ELEMENT[dtype]
        stored = ir.VectorType(element, self.target.lanes)
        loaded = self.b.load(self.at(pointer, offset, element), typ=stored, align=_alignment(element))
        return self.b.fpext(loaded, self.vector) if dtype == "f16" else loaded

    def store_vector(self, value: Value, pointer: Value, offset: Value | int = 0) -> None:
        self.b.store(value, self.at(pointer, offset), align=4)

    def prefetch(self, pointer: Value, offset: int) -> None:
        """Asks for the cache line of an element, for reading, into all caches; the address may be invalid."""
        kind = ir.FunctionType(ir.VoidType(), [POINTER, I32, I32, I32])
        read, nearest, data = (ir.Constant(I32, n) for n in (0, 3, 1))
        self.b.call(self.declare("llvm.prefetch.p0", kind), [self.at(pointer, offset), read, nearest, data])

    def mask(self, count: Value) -> Value:
        """Lanes below `count` (i64, may exceed the width)."""
        lanes = self.target.lanes
        wide = ir.VectorType(I64, lanes)
        lane0 = self.b.insert_element(ir.Constant(wide, ir.Undefined), count, ir.Constant(I32, 0))
        zeros = ir.Constant(ir.VectorType(I32, lanes), [0] * lanes)
        limit = self.b.shuffle_vector(lane0, ir.Constant(wide, ir.Undefined), zeros)
        return self.b.icmp_signed("<", ir.Constant(wide, list(range(lanes))), limit)

    def load_masked(self, pointer: Value, offset: Value | int, mask: Value | None) -> Value:
        """Lanes outside the mask are zero and their memory is not touched. No mask: all lanes."""
        if mask is None:
            return self.load_vector(pointer, offset)
        lanes = self.target.lanes
        kind = ir.FunctionType(self.vector, [POINTER, I32, ir.VectorType(I1, lanes), self.vector])
        load = self.declare(f"llvm.masked.load.v{lanes}f32.p0", kind)
        return self.b.call(load, [self.at(pointer, offset), ir.Constant(I32, 4), mask, self.zeros()])

    def store_masked(self, value: Value, pointer: Value, offset: Value | int, mask: Value | None) -> None:
        if mask is None:
            self.store_vector(value, pointer, offset)
            return
        lanes = self.target.lanes
        kind = ir.FunctionType(ir.VoidType(), [self.vector, POINTER, I32, ir.VectorType(I1, lanes)])
        store = self.declare(f"llvm.masked.store.v{lanes}f32.p0", kind)
        self.b.call(store, [value, self.at(pointer, offset), ir.Constant(I32, 4), mask])

    # Arithmetic

    def declare(self, name: str, kind: Value) -> Value:
        return self.module.globals.get(name) or ir.Function(self.module, kind, name)

    def intrinsic(self, name: str, *operands: Value) -> Value:
        """`llvm.<name>` on whatever floating type the operands have."""
        kind = operands[0].type
        suffix = f"v{kind.count}f32" if isinstance(kind, ir.VectorType) else {F32: "f32", F64: "f64"}[kind]
        function = self.declare(f"llvm.{name}.{suffix}", ir.FunctionType(kind, [kind] * len(operands)))
        return self.b.call(function, operands)

    def fma(self, a: Value, b: Value, c: Value) -> Value:
        """a b + c, rounded once."""
        return self.intrinsic("fma", a, b, c)

    def maximum(self, a: Value, b: Value) -> Value:
        """Lane by lane, as one instruction: NaN handling does not matter to its users."""
        return self.b.select(self.b.fcmp_ordered(">", a, b), a, b)

    def sum_lanes(self, value: Value) -> Value:
        """Pairwise sum of the lanes: halves are added until one is left, so the order is fixed."""
        width = self.target.lanes
        while width > 1:
            half = width // 2
            low = ir.Constant(ir.VectorType(I32, half), list(range(half)))
            high = ir.Constant(ir.VectorType(I32, half), list(range(half, width)))
            undefined = ir.Constant(value.type, ir.Undefined)
            value = self.b.fadd(
                self.b.shuffle_vector(value, undefined, low), self.b.shuffle_vector(value, undefined, high)
            )
            width = half
        return self.b.extract_element(value, ir.Constant(I32, 0))

    def minimum_integer(self, a: Value, b: Value) -> Value:
        return self.b.select(self.b.icmp_signed("<", a, b), a, b)

    def maximum_integer(self, a: Value, b: Value) -> Value:
        return self.b.select(self.b.icmp_signed(">", a, b), a, b)

    # Control flow

    @contextmanager
    def loop(self, start: Value | int, stop: Value | int, step: int = 1) -> Iterator[Value]:
        """for (i = start; i < stop; i += step), all i64; zero iterations allowed."""
        index, _ = self._open_loop(start, stop, step, ())
        yield index
        self._close_loop(())

    def reduce(
        self,
        start: Value | int,
        stop: Value | int,
        step: int,
        initial: Sequence[Value],
        body: Callable[[Value, list[Value]], list[Value]],
    ) -> list[Value]:
        """A loop that carries values: `body(i, values)` returns the next ones; the last are returned."""
        index, carried = self._open_loop(start, stop, step, initial)
        self._close_loop(body(index, list(carried)))
        return carried

    def _open_loop(
        self, start: Value | int, stop: Value | int, step: int, initial: Sequence[Value]
    ) -> tuple[Value, list[Value]]:
        start = i64(start) if isinstance(start, int) else start
        stop = i64(stop) if isinstance(stop, int) else stop
        before = self.b.block
        head, body, after = (self.function.append_basic_block(name) for name in ("head", "body", "after"))
        self.b.branch(head)
        self.b.position_at_end(head)
        index = self.b.phi(I64)
        carried = [self.b.phi(value.type) for value in initial]
        index.add_incoming(start, before)
        for phi, value in zip(carried, initial, strict=True):
            phi.add_incoming(value, before)
        self.b.cbranch(self.b.icmp_signed("<", index, stop), body, after)
        self.b.position_at_end(body)
        self._loops.append((head, after, index, carried, step))
        return index, carried

    def _close_loop(self, values: Sequence[Value]) -> None:
        head, after, index, carried, step = self._loops.pop()
        index.add_incoming(self.b.add(index, i64(step)), self.b.block)
        for phi, value in zip(carried, values, strict=True):
            phi.add_incoming(value, self.b.block)
        self.b.branch(head)
        self.b.position_at_end(after)

    def __post_init__(self) -> None:
        self._loops: list[tuple[Any, Any, Any, list[Any], int]] = []

    def columns(self, count: int, body: Callable[[Value, Value | None], None]) -> None:
        """`body(offset, mask)` for each vector of a row of `count` columns; the mask is None but for a
        partial last vector.
        """
        lanes = self.target.lanes
        whole = count // lanes * lanes
        with self.loop(0, whole, lanes) as offset:
            body(offset, None)
        if count > whole:
            body(i64(whole), self.mask(i64(count - whole)))

    def reduce_columns(
        self,
        count: int,
        initial: Sequence[Value],
        body: Callable[[Value, Value | None, list[Value]], list[Value]],
    ) -> list[Value]:
        """Like `columns`, carrying values from vector to vector."""
        lanes = self.target.lanes
        whole = count // lanes * lanes
        values = self.reduce(0, whole, lanes, initial, lambda offset, carried: body(offset, None, carried))
        return body(i64(whole), self.mask(i64(count - whole)), values) if count > whole else values

    @contextmanager
    def when(self, condition: Value) -> Iterator[None]:
        with self.b.if_then(condition):
            yield


def _alignment(element: Value) -> int:
    return {F16: 2, F64: 8, I64: 8}.get(element, 4)


def new_function(
    module: Any, name: str, arguments: Sequence[Value], target: Target, internal: bool
) -> Emitter:
    """An empty void function and an emitter at its entry."""
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), list(arguments)), name)
    if internal:
        function.linkage = "internal"
        function.attributes.add("noinline")
    function.attributes.add("nounwind")
    return Emitter(module, function, ir.IRBuilder(function.append_basic_block("entry")), target)


def constant_table(module: Any, name: str, element: Value, values: Sequence[float]) -> Value:
    """A read-only array of the module; the same name is one table."""
    if name in module.globals:
        return module.globals[name]
    kind = ir.ArrayType(element, len(values))
    table = ir.GlobalVariable(module, kind, name)
    table.initializer = ir.Constant(kind, list(values))
    table.global_constant = True
    table.linkage = "internal"
    return table
