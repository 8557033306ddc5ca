"""matmul and conv2d: out[row][column] = epilogue(sum over tap, k of x[row, tap][k] w[column, tap][k]).

A matmul is a convolution with one tap. A tile is a block of rows times a block of weight panels. For each
tap and block of depth the tile's panels are widened once from f16 into scratch, where live adapters add to
them, and reused over all of its rows; partial sums stay in scratch until the last block, then bias, time
embedding, residual and activation are applied while they are in the first-level cache.

The input of a convolution is padded beforehand, so no tap needs a bounds check; row groups never cross image
rows.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

from sdcomp.codegen.builder import ELEMENT, I1, I64, Emitter, Value, constant_table, i64
from sdcomp.codegen.kernels import vectormath
from sdcomp.codegen.kernels.base import Kernel, operand, scratch
from sdcomp.codegen.kernels.epilogue import Epilogue, Step, operand_behind
from sdcomp.codegen.kernels.live import OPERANDS as LIVE_OPERANDS
from sdcomp.codegen.kernels.live import KroneckerTerm, LiveWeights, panel_columns
from sdcomp.codegen.kernels.microkernel import Partition, call_by_group
from sdcomp.codegen.targets import Target

import llvmlite.ir as ir  # isort: skip


@dataclass(frozen=True)
class Geometry:
    """Where the rows of the input are: batches x outer x inner of them (samples, image rows, pixels).

    Row (b, y, x) starts at b batch_stride + y outer_stride + x inner_stride, in f32 elements, its taps at the
    offsets `taps` from there, each `depth` long. A matmul has one tap.
    """

    batches: int
    outer: int
    inner: int
    batch_stride: int
    outer_stride: int
    inner_stride: int
    taps: tuple[int, ...]
    depth: int


@dataclass(frozen=True)
class Contraction(Kernel):
    """Static shape. Operands: x, w, out, then one per step that takes one, then those of `live` terms, then
    the other parts of x.

    `columns` counts weight columns: a gated kernel writes half of them, value times gelu(gate). Rows of the
    output are `out_stride` f32 apart. A matmul's rows may be in several places: their depth is that of
    `geometry` and behind it those of `others`.
    """

    geometry: Geometry
    columns: int
    out_stride: int
    weight_dtype: str
    steps: tuple[Step, ...]
    gated: bool
    vectors: int
    tile_rows: int
    lanes: int
    row_block: int = 1
    panel_block: int = 1
    depth_block: int = 1
    live: tuple[KroneckerTerm, ...] = ()
    others: tuple[Geometry, ...] = ()

    kind = "contraction"

    @property
    def depth(self) -> int:
        """Of all parts of x together."""
        return sum(part.depth for part in (self.geometry, *self.others))

    @property
    def width(self) -> int:
        """Columns of one weight panel."""
        return self.vectors * self.lanes

    @property
    def panels(self) -> int:
        return -(-self.columns // self.width)

    @property
    def partition(self) -> Partition:
        return Partition.of(self.geometry.inner, self.tile_rows)

    @property
    def groups(self) -> int:
        return self.geometry.batches * self.geometry.outer * self.partition.groups

    @property
    def row_blocks(self) -> int:
        return -(-self.groups // self.row_block)

    @property
    def panel_blocks(self) -> int:
        return -(-self.panels // self.panel_block)

    @property
    def tiles(self) -> int:
        return self.row_blocks * self.panel_blocks

    @property
    def multiplies(self) -> int:
        changed = sum(term.stop - term.start for term in self.live)
        return self._products + self.row_blocks * len(self.geometry.taps) * self.depth * changed

    @property
    def _weights(self) -> int:
        return len(self.geometry.taps) * self.depth * self.columns

    @property
    def _products(self) -> int:
        """Multiplies without those of live adapters: tiles are the same with and without."""
        return self._weights * self.geometry.batches * self.geometry.outer * self.geometry.inner

    @property
    def live_operand(self) -> int:
        """Number of the first operand of the live terms."""
        return operand_behind(self.steps)

    @property
    def is_staged(self) -> bool:
        """Whether panels pass through scratch before they are multiplied."""
        return self.weight_dtype == "f16" or bool(self.live)

    @property
    def work(self) -> Mapping[str, int]:
        """Products, weights widened, and sums kept from one tap and block of depth to the next."""
        g, columns = self.geometry, self.panels * self.width
        rows, weights = g.batches * g.outer * g.inner, len(g.taps) * self.depth * columns
        return {
            "multiply": rows * weights,
            "filter": weights * self.row_blocks if self.weight_dtype == "f16" else 0,
            "output": rows * columns * len(g.taps) * -(-self.depth // self.depth_block),
        }

    @property
    def _sum_floats(self) -> int:
        return self.row_block * self.panel_block * self.partition.rows * self.width

    def scratch_bytes(self, target: Target) -> int:
        staged = self.panel_block * self.depth_block * self.width if self.is_staged else 0
        return 4 * (self._sum_floats + staged)

    def tiled(self, target: Target) -> "Contraction":
        """The same kernel with its tile sizes chosen for the target's caches.

        A panel's block of depth takes a twelfth of the second-level cache: it streams from there, which keeps
        up, and the deeper it is the fewer sums are loaded and stored. The tile's panels and sums take half;
        rows are many enough to pay for widening the panels, tiles many enough to feed the workers.
        """
        most_depth = max(64, target.l2_bytes // 12 // (4 * self.width))
        depth_block = -(-self.depth // -(-self.depth // most_depth))
        rows = self.partition.rows
        row_block = min(self.groups, max(1, _ROWS_PER_TILE // rows))
        panel_bytes = 4 * self.width * (depth_block + row_block * rows)
        panel_block = max(1, min(self.panels, target.l2_bytes // 2 // panel_bytes))
        best = replace(self, row_block=row_block, panel_block=panel_block, depth_block=depth_block)
        while best.tiles < _ENOUGH_TILES and best._products // best.tiles > _SMALL_TILE:
            if best.panel_block > 1:
                best = replace(best, panel_block=(best.panel_block + 1) // 2)
            elif best.row_block * rows > _ROWS_PER_TILE // 4:
                best = replace(best, row_block=(best.row_block + 1) // 2)
            else:
                break
        even_rows = -(-self.groups // best.row_blocks)
        even_panels = -(-self.panels // best.panel_blocks)
        return replace(best, row_block=even_rows, panel_block=even_panels)

    # Emission

    def emit_tile(self, e: Emitter, tile: Value) -> None:
        first_group = e.b.mul(e.b.sdiv(tile, i64(self.panel_blocks)), i64(self.row_block))
        first_panel = e.b.mul(e.b.srem(tile, i64(self.panel_blocks)), i64(self.panel_block))
        last_group = e.minimum_integer(e.b.add(first_group, i64(self.row_block)), i64(self.groups))
        last_panel = e.minimum_integer(e.b.add(first_panel, i64(self.panel_block)), i64(self.panels))
        for part in _parts(self):
            with (
                e.loop(0, len(self.geometry.taps)) as tap,
                e.loop(part.first, part.end, self.depth_block) as depth_start,
            ):
                count = e.minimum_integer(i64(self.depth_block), e.b.sub(i64(part.end), depth_start))
                block = _Block(self, e, part, tap, depth_start, count, first_panel)
                if self.is_staged:
                    with e.loop(first_panel, last_panel) as panel:
                        block.stage(panel)
                with e.loop(first_panel, last_panel) as panel, e.loop(first_group, last_group) as group:
                    slot = e.b.mul(e.b.sub(group, first_group), i64(self.panel_block))
                    slot = e.b.add(slot, e.b.sub(panel, first_panel))
                    self._compute(e, block, group, panel, slot)

    def _compute(self, e: Emitter, block: "_Block", group: Value, panel: Value, slot: Value) -> None:
        """A block's share of the sums of one row group and panel, which are number `slot` of the tile."""
        row = _RowGroup(self, e, group)
        sums = e.at(scratch(e), e.b.mul(slot, i64(self.partition.rows * self.width)))
        block.multiply(row, panel, sums)
        with e.when(block.is_last()):
            self._finish(e, row, panel, sums)

    def _finish(self, e: Emitter, row: "_RowGroup", panel: Value, sums: Value) -> None:
        """Finished sums of one row group and panel, through the epilogue, to the output."""
        g, kept = self.geometry, self.vectors // 2 if self.gated else self.vectors
        columns = self.columns // 2 if self.gated else self.columns
        epilogue = Epilogue(e, self.steps, self.vectors, kept, columns, g.outer * g.inner, panel, row.batch)
        out = operand(e, 2)
        with e.loop(0, row.rows()) as r:
            absolute = e.b.add(row.first_row, r)
            at = e.at(sums, e.b.mul(r, i64(self.width)))
            values = [
                epilogue.apply(v, e.load_vector(at, v * self.lanes), absolute) for v in range(self.vectors)
            ]
            if self.gated:
                halves = zip(values[:kept], values[kept:], strict=True)
                values = [e.b.fmul(value, vectormath.gelu(e, gate)) for value, gate in halves]
            for v, value in enumerate(values):
                epilogue.store(v, value, out, absolute, self.out_stride)


@dataclass(frozen=True)
class _Part:
    """Rows first <= k < end of the weight, and where what they are multiplied with is."""

    geometry: Geometry
    operand: int
    first: int

    @property
    def end(self) -> int:
        return self.first + self.geometry.depth


def _parts(kernel: Contraction) -> list[_Part]:
    parts = [_Part(kernel.geometry, 0, 0)]
    first_operand = kernel.live_operand + LIVE_OPERANDS * len(kernel.live)
    for number, geometry in enumerate(kernel.others, first_operand):
        parts.append(_Part(geometry, number, parts[-1].end))
    return parts


@dataclass
class _RowGroup:
    """Rows of one micro-kernel call: consecutive pixels of one image row."""

    kernel: Contraction
    e: Emitter
    group: Value

    def __post_init__(self) -> None:
        e, k = self.e, self.kernel
        image_row = e.b.sdiv(self.group, i64(k.partition.groups))
        self.within = e.b.srem(self.group, i64(k.partition.groups))
        self.batch = e.b.sdiv(image_row, i64(k.geometry.outer))
        self.outer = e.b.srem(image_row, i64(k.geometry.outer))
        self.inner = k.partition.start(e, self.within)
        self.first_row = e.b.add(e.b.mul(image_row, i64(k.geometry.inner)), self.inner)

    def input_offset(self, geometry: Geometry) -> Value:
        e = self.e
        steps = (
            (self.batch, geometry.batch_stride),
            (self.outer, geometry.outer_stride),
            (self.inner, geometry.inner_stride),
        )
        offset = i64(0)
        for index, stride in steps:
            offset = e.b.add(offset, e.b.mul(index, i64(stride)))
        return offset

    def rows(self) -> Value:
        e, partition = self.e, self.kernel.partition
        large = e.b.icmp_signed("<", self.within, i64(partition.full))
        return e.b.select(large, i64(partition.rows), i64(partition.rows - 1))


@dataclass
class _Block:
    """One tap and one block of depth of one tile."""

    kernel: Contraction
    e: Emitter
    part: _Part
    tap: Value
    start: Value
    count: Value
    first_panel: Value

    def _weights(self, panel: Value) -> Value:
        """Offset of the block in the packed weights [panel][tap][depth][width]."""
        e, k = self.e, self.kernel
        at = e.b.add(e.b.mul(panel, i64(len(k.geometry.taps))), self.tap)
        return e.b.mul(e.b.add(e.b.mul(at, i64(k.depth)), self.start), i64(k.width))

    def _staged(self, panel: Value) -> Value:
        e, k = self.e, self.kernel
        slot = e.b.sub(panel, self.first_panel)
        return e.at(scratch(e, k._sum_floats), e.b.mul(slot, i64(k.depth_block * k.width)))

    def stage(self, panel: Value) -> None:
        """The panel's block as f32 in scratch, with what live adapters add to it."""
        e, k = self.e, self.kernel
        source = e.at(operand(e, 1), self._weights(panel), ELEMENT[k.weight_dtype])
        target = self._staged(panel)
        if k.live:
            columns = panel_columns(e, panel, k.vectors, k.columns if k.gated else None)
            live = LiveWeights(e, k.live, k.live_operand, panel)
            read = partial(e.load_vector, source, dtype=k.weight_dtype)
            live.add_rows(target, columns, read, self.tap, self.start, self.count)
            return
        with e.loop(0, e.b.mul(self.count, i64(k.width)), k.width) as offset:
            for v in range(k.vectors):
                at = e.b.add(offset, i64(v * k.lanes))
                e.store_vector(e.load_vector(source, at, k.weight_dtype), target, at)

    def multiply(self, row: _RowGroup, panel: Value, sums: Value) -> None:
        e, k, geometry = self.e, self.kernel, self.part.geometry
        taps = constant_table(e.module, "taps_" + "_".join(map(str, geometry.taps)), I64, geometry.taps)
        pixel = e.b.add(row.input_offset(geometry), e.load(taps, self.tap, I64))
        channel = e.b.sub(self.start, i64(self.part.first))
        a = e.at(operand(e, self.part.operand), e.b.add(pixel, channel))
        b = self._staged(panel) if k.is_staged else e.at(operand(e, 1), self._weights(panel))
        first = e.b.icmp_signed("==", e.b.or_(self.tap, self.start), i64(0))
        accumulate = e.b.xor(first, ir.Constant(I1, 1))
        call_by_group(
            e,
            k.partition,
            k.vectors,
            geometry.inner_stride,
            1,
            row.within,
            a,
            b,
            sums,
            self.count,
            accumulate,
        )

    def is_last(self) -> Value:
        e, k = self.e, self.kernel
        last_tap = e.b.icmp_signed("==", self.tap, i64(len(k.geometry.taps) - 1))
        last_depth = e.b.icmp_signed(">=", e.b.add(self.start, i64(k.depth_block)), i64(k.depth))
        return e.b.and_(last_tap, last_depth)


_ROWS_PER_TILE = 384
_ENOUGH_TILES = 48
_SMALL_TILE = 4 << 20
"""Multiplies below which a tile's overhead would show: about 0.05 ms of one core."""


def panel_vectors(target: Target, columns: int, gated: bool) -> int:
    """Vectors per weight panel: as the target says, fewer for a handful of columns."""
    needed = -(-columns // target.lanes)
    return target.panel_vectors if gated else min(target.panel_vectors, needed)
