"""The micro-kernel: C[rows][width] (+)= A[rows][depth] B[depth][width], all accumulators in registers.

A is read in place, one broadcast per row and step, so it needs no packing: its element (row, k) is at `row *
row_stride + k * depth_stride`, both static, which makes every address one register and a displacement. B and
C are contiguous panels of `width = vectors * lanes` columns. Goto and van de Geijn 2008, with the packing of
A left out because the compiler knows the strides.
"""

from dataclasses import dataclass

from sdcomp.codegen.builder import F32, I1, I64, POINTER, Emitter, Value, i64, new_function

_UNROLL = 4


@dataclass(frozen=True)
class MicroKernel:
    """Static shape of one micro-kernel; calling `function` emits it once per module.

    With `prefetch` it asks for the same block of the rows behind its own, which the next call reads: worth it
    where A comes from beyond the second-level cache.
    """

    rows: int
    vectors: int
    row_stride: int
    depth_stride: int
    prefetch: bool = False

    @property
    def symbol(self) -> str:
        name = f"micro_{self.rows}x{self.vectors}_{self.row_stride}_{self.depth_stride}"
        return name + "_prefetch" * self.prefetch

    def function(self, e: Emitter) -> Value:
        """void (A, B, C, i64 depth, i1 accumulate): with `accumulate` the sums start from C, otherwise from
        zero.
        """
        if self.symbol not in e.module.globals:
            self._emit(
                new_function(e.module, self.symbol, [POINTER, POINTER, POINTER, I64, I1], e.target, True)
            )
        return e.module.globals[self.symbol]

    def call(self, e: Emitter, a: Value, b: Value, c: Value, depth: Value | int, accumulate: Value) -> None:
        depth = i64(depth) if isinstance(depth, int) else depth
        e.b.call(self.function(e), [a, b, c, depth, accumulate])

    def _emit(self, e: Emitter) -> None:
        a, b, c, depth, accumulate = e.function.args
        for pointer in (a, b, c):
            pointer.add_attribute("noalias")
        sums = self.multiply(e, a, b, depth, self._initial(e, c, accumulate))
        for index, value in enumerate(sums):
            e.store_vector(value, c, index * e.target.lanes)
        e.b.ret_void()

    def multiply(self, e: Emitter, a: Value, b: Value, depth: Value, sums: list[Value]) -> list[Value]:
        """The loop: `sums`, rows of vectors, plus A B."""
        unrolled = e.b.and_(depth, i64(-_UNROLL))
        sums = e.reduce(0, unrolled, _UNROLL, sums, lambda k, s: self._steps(e, a, b, k, s, _UNROLL))
        return e.reduce(unrolled, depth, 1, sums, lambda k, s: self._steps(e, a, b, k, s, 1))

    def _initial(self, e: Emitter, c: Value, accumulate: Value) -> list[Value]:
        count = self.rows * self.vectors
        before = e.b.block
        with e.b.if_then(accumulate):
            loaded = [e.load_vector(c, index * e.target.lanes) for index in range(count)]
            inside = e.b.block
        sums = [e.b.phi(e.vector) for _ in range(count)]
        for phi, value in zip(sums, loaded, strict=True):
            phi.add_incoming(value, inside)
            phi.add_incoming(e.zeros(), before)
        return sums

    def _steps(self, e: Emitter, a: Value, b: Value, k: Value, sums: list[Value], steps: int) -> list[Value]:
        width = self.vectors * e.target.lanes
        a_step = e.at(a, e.b.mul(k, i64(self.depth_stride)))
        b_step = e.at(b, e.b.mul(k, i64(width)))
        if self.prefetch and steps == _UNROLL:
            for row in range(self.rows, 2 * self.rows):
                e.prefetch(a_step, row * self.row_stride)
        for step in range(steps):
            panel = [e.load_vector(b_step, step * width + v * e.target.lanes) for v in range(self.vectors)]
            for row in range(self.rows):
                scalar = e.load(a_step, row * self.row_stride + step * self.depth_stride, F32)
                spread = e.splat(scalar)
                for v in range(self.vectors):
                    at = row * self.vectors + v
                    sums[at] = e.fma(spread, panel[v], sums[at])
        return sums


@dataclass(frozen=True)
class Partition:
    """`count` rows cut into groups of `rows` or `rows - 1`: the first `full` groups are the larger ones."""

    count: int
    groups: int
    rows: int
    full: int

    @staticmethod
    def of(count: int, most: int) -> "Partition":
        """As few groups as `most` rows each allow, as even as possible, so that two micro-kernels serve
        all.
        """
        groups = -(-count // most)
        base, larger = divmod(count, groups)
        return (
            Partition(count, groups, base + 1, larger) if larger else Partition(count, groups, base, groups)
        )

    def runs(self) -> list[tuple[int, int, int]]:
        """First row, number of groups, and rows of each: of the larger groups, then of the smaller ones."""
        smaller = (self.full * self.rows, self.groups - self.full, self.rows - 1)
        return [run for run in ((0, self.full, self.rows), smaller) if run[1]]

    def start(self, e: Emitter, group: Value) -> Value:
        """First row of a group."""
        uneven = e.b.sub(group, e.minimum_integer(group, i64(self.full)))
        return e.b.sub(e.b.mul(group, i64(self.rows)), uneven)


def call_by_group(
    e: Emitter,
    partition: Partition,
    vectors: int,
    row_stride: int,
    depth_stride: int,
    group: Value,
    a: Value,
    b: Value,
    c: Value,
    depth: Value | int,
    accumulate: Value,
    prefetch: bool = False,
) -> None:
    """The micro-kernel of this group's row count."""
    large = MicroKernel(partition.rows, vectors, row_stride, depth_stride, prefetch)
    if partition.full == partition.groups:
        large.call(e, a, b, c, depth, accumulate)
        return
    small = MicroKernel(partition.rows - 1, vectors, row_stride, depth_stride, prefetch)
    with e.b.if_else(e.b.icmp_signed("<", group, i64(partition.full))) as (then, otherwise):
        with then:
            large.call(e, a, b, c, depth, accumulate)
        with otherwise:
            small.call(e, a, b, c, depth, accumulate)
