"""A 3x3 convolution of stride 1 as F(m x m, 3 x 3), all stages in one kernel (matrices:
`winograd/matrices.py`), of a map or of the same map upsampled.

A tile of work is a block of map tiles times a block of weight panels. For each block of input channels:

    V[s][tile][k]       = B^T d B       once per block, vectors over channels
    U[s][k][column]     = G g G^T       from the plain stored filters, just in time, vectors over columns
    M[s][tile][column] += V[s] U[s]     n^2 products, by the micro-kernel

and at the end Y = A^T M A, through the epilogue, vectors over columns. Transformed filters never exist as a
whole: they would be 4 times as large as plain ones for m = 4. Planes s are padded by a cache line: without
that all n^2 of them would fall into one set of the first-level cache.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import chain

import llvmlite.ir as ir

from sdcomp.codegen.builder import ELEMENT, F32, I1, Emitter, Value, constant_table, i64
from sdcomp.codegen.kernels import transforms
from sdcomp.codegen.kernels.base import Kernel, operand, scratch
from sdcomp.codegen.kernels.epilogue import FIRST_OPERAND, Epilogue, Step
from sdcomp.codegen.kernels.live import KroneckerTerm, LiveWeights
from sdcomp.codegen.kernels.microkernel import Partition, call_by_group
from sdcomp.codegen.targets import Target
from sdcomp.winograd.matrices import TAPS, Transform, floats, transform

_PLANE_PADDING = 16
_TILES_PER_BLOCK = 66
_ENOUGH_TILES = 12


@dataclass(frozen=True)
class WinogradConvolution(Kernel):
    """Static shape. Operands: x, w in panels, out, one per step that takes one, then those of `live` terms.

    The output is batches x height x width pixels of `columns`, rows `out_stride` f32 apart. x has samples of
    source_height x source_width pixels, `stride` apart; `border` rows and columns of zeros are missing above
    and left of it, and what windows need below and right. The convolution is of x upsampled `scale` times.
    """

    m: int
    scale: int
    batches: int
    height: int
    width: int
    source_height: int
    source_width: int
    border: tuple[int, int]
    stride: int
    depth: int
    columns: int
    out_stride: int
    weight_dtype: str
    steps: tuple[Step, ...]
    vectors: int
    tile_rows: int
    lanes: int
    tile_block: int = 1
    panel_block: int = 1
    depth_block: int = 1
    live: tuple[KroneckerTerm, ...] = ()

    kind = "winograd"

    @property
    def transform(self) -> Transform:
        return transform(self.m, self.scale)

    @property
    def planes(self) -> int:
        return self.transform.planes

    @property
    def panel_width(self) -> int:
        return self.vectors * self.lanes

    @property
    def panels(self) -> int:
        return -(-self.columns // self.panel_width)

    @property
    def map_rows(self) -> int:
        """Tiles down one map."""
        return -(-self.height // self.m)

    @property
    def map_columns(self) -> int:
        """Tiles across one map."""
        return -(-self.width // self.m)

    @property
    def reaches_outside(self) -> tuple[bool, bool]:
        """Whether windows contain rows, or columns, that x does not have."""
        step = self.transform.step
        ends = self.map_rows * step + TAPS - 1, self.map_columns * step + TAPS - 1
        extents = zip(self.border, ends, (self.source_height, self.source_width), strict=True)
        rows, columns = (before > 0 or end - before > extent for before, end, extent in extents)
        return rows, columns

    @property
    def map_tiles(self) -> int:
        return self.batches * self.map_rows * self.map_columns

    @property
    def panel_blocks(self) -> int:
        return -(-self.panels // self.panel_block)

    @property
    def tile_blocks(self) -> int:
        return -(-self.map_tiles // self.tile_block)

    @property
    def tiles(self) -> int:
        return self.tile_blocks * self.panel_blocks

    @property
    def multiplies(self) -> int:
        products = self.planes * self.map_tiles * self.depth * self.columns
        blocks = -(-self.map_tiles // self.tile_block)
        changed = sum(term.stop - term.start for term in self.live)
        return products + blocks * TAPS * TAPS * self.depth * changed

    @property
    def work(self) -> Mapping[str, int]:
        """Products, and elements of V, U and M that are transformed, with what fills vectors and panels."""
        columns = self.panels * self.panel_width
        depth = -(-self.depth // self.lanes) * self.lanes
        return {
            "multiply": self.planes * self.map_tiles * self.depth * columns,
            "input": self.planes * self.map_tiles * depth * self.panel_blocks,
            "filter": self.planes * self.depth * columns * self.tile_blocks,
            "output": self.planes * self.map_tiles * columns,
        }

    # Scratch: V, U, M, in floats

    @property
    def v_plane(self) -> int:
        return self.tile_block * self.depth_block + _PLANE_PADDING

    @property
    def u_plane(self) -> int:
        return self.depth_block * self.panel_width + _PLANE_PADDING

    @property
    def m_plane(self) -> int:
        return self.tile_block * self.panel_width + _PLANE_PADDING

    @property
    def pixels_start(self) -> int:
        """One tile of finished sums lies behind V, U and M."""
        return self.planes * (self.v_plane + self.u_plane + self.panel_block * self.m_plane)

    def scratch_bytes(self, target: Target) -> int:
        return 4 * (self.pixels_start + self.m * self.m * self.panel_width)

    def tiled(self, target: Target) -> "WinogradConvolution":
        """The same kernel with its tile sizes chosen for the target's caches.

        U of one panel takes a third of the second-level cache; V is worth more panels while there is work
        left for every worker.
        """
        most_depth = max(self.lanes, target.l2_bytes // 3 // (4 * self.planes * self.panel_width))
        blocks = -(-self.depth // most_depth)
        depth_block = -(-self.depth // (blocks * self.lanes)) * self.lanes
        tile_block = -(-self.map_tiles // -(-self.map_tiles // _TILES_PER_BLOCK))
        best = replace(self, tile_block=tile_block, depth_block=depth_block, panel_block=self.panels)
        while best.tiles < _ENOUGH_TILES and best.panel_block > 1:
            best = replace(best, panel_block=(best.panel_block + 1) // 2)
        return replace(best, panel_block=-(-self.panels // best.panel_blocks))

    # Emission

    def emit_tile(self, e: Emitter, tile: Value) -> None:
        work = _Work(self, e, tile)
        with e.loop(0, self.depth, self.depth_block) as start:
            count = e.minimum_integer(i64(self.depth_block), e.b.sub(i64(self.depth), start))
            work.transform_input(start, count)
            with e.loop(work.first_panel, work.last_panel) as panel:
                work.transform_filters(panel, start, count)
                work.multiply(panel, start, count)
        with e.loop(work.first_panel, work.last_panel) as panel, e.loop(0, work.count) as index:
            work.transform_output(panel, index)


@dataclass
class _Work:
    """One tile of work."""

    kernel: WinogradConvolution
    e: Emitter
    tile: Value

    def __post_init__(self) -> None:
        e, k = self.e, self.kernel
        self.first = e.b.mul(e.b.sdiv(self.tile, i64(k.panel_blocks)), i64(k.tile_block))
        self.count = e.minimum_integer(i64(k.tile_block), e.b.sub(i64(k.map_tiles), self.first))
        self.first_panel = e.b.mul(e.b.srem(self.tile, i64(k.panel_blocks)), i64(k.panel_block))
        self.last_panel = e.minimum_integer(e.b.add(self.first_panel, i64(k.panel_block)), i64(k.panels))
        self.v = scratch(e)
        self.u = scratch(e, k.planes * k.v_plane)
        self.sums = scratch(e, k.planes * (k.v_plane + k.u_plane))
        self.pixels = scratch(e, k.pixels_start)

    def _place(self, index: Value) -> tuple[Value, Value, Value]:
        """Sample, and position in tiles, of the block's tile number `index`."""
        e, k = self.e, self.kernel
        number = e.b.add(self.first, index)
        row = e.b.sdiv(number, i64(k.map_columns))
        batch, row = e.b.sdiv(row, i64(k.map_rows)), e.b.srem(row, i64(k.map_rows))
        return batch, row, e.b.srem(number, i64(k.map_columns))

    def transform_input(self, start: Value, count: Value) -> None:
        e, k = self.e, self.kernel
        matrix = floats(k.transform.input)
        with e.loop(0, self.count) as index:
            window = self._window(index, start)
            target = e.at(self.v, e.b.mul(index, i64(k.depth_block)))
            with e.loop(0, count, k.lanes) as channel:
                mask = e.mask(e.b.sub(count, channel)) if k.depth % k.lanes else None
                tile = [
                    [e.load_masked(e.at(at, channel), offset, mask) for at, offset in line] for line in window
                ]
                into = e.at(target, channel)
                for s, value in enumerate(chain(*transforms.apply_2d(e, matrix, tile))):
                    e.store_vector(value, into, s * k.v_plane)

    def _window(self, index: Value, start: Value) -> list[list[tuple[Value, int]]]:
        """Pointer and offset of every pixel of a tile's window, at channel `start`; outside of x to zeros."""
        e, k = self.e, self.kernel
        size, step = range(k.transform.inputs), i64(k.transform.step)
        batch, row, column = self._place(index)
        top = e.b.sub(e.b.mul(row, step), i64(k.border[0]))
        left = e.b.sub(e.b.mul(column, step), i64(k.border[1]))
        pixel = e.b.add(
            e.b.mul(e.b.add(e.b.mul(batch, i64(k.source_height)), top), i64(k.source_width)), left
        )
        source = e.at(operand(e, 0), e.b.add(e.b.mul(pixel, i64(k.stride)), start))
        offsets = [[(i * k.source_width + j) * k.stride for j in size] for i in size]
        if not any(k.reaches_outside):
            return [[(source, offset) for offset in line] for line in offsets]
        zeros = constant_table(e.module, f"zeros_{k.depth_block}", F32, [0.0] * k.depth_block)
        rows = [self._inside(e.b.add(top, i64(i)), k.source_height, k.reaches_outside[0]) for i in size]
        columns = [self._inside(e.b.add(left, i64(j)), k.source_width, k.reaches_outside[1]) for j in size]
        return [
            [(e.b.select(e.b.and_(rows[i], columns[j]), e.at(source, offsets[i][j]), zeros), 0) for j in size]
            for i in size
        ]

    def transform_filters(self, panel: Value, start: Value, count: Value) -> None:
        e, k = self.e, self.kernel
        matrix, width = floats(k.transform.filter), k.panel_width
        first = e.b.add(e.b.mul(panel, i64(TAPS * TAPS * k.depth)), start)
        source = e.at(operand(e, 1), e.b.mul(first, i64(width)), ELEMENT[k.weight_dtype])
        live = LiveWeights(e, k.live, FIRST_OPERAND + sum(step.takes_operand for step in k.steps), panel)
        with e.loop(0, e.b.mul(count, i64(width)), k.lanes) as at:
            taps = [
                e.load_vector(source, e.b.add(at, i64(tap * k.depth * width)), k.weight_dtype)
                for tap in range(TAPS * TAPS)
            ]
            row, column = e.b.udiv(at, i64(width)), e.b.urem(at, i64(width))
            taps = live.adapt(taps, e.b.add(start, row), column, width)
            filters = [taps[first : first + TAPS] for first in range(0, TAPS * TAPS, TAPS)]
            into = e.at(self.u, at)
            for s, value in enumerate(chain(*transforms.apply_2d(e, matrix, filters))):
                e.store_vector(value, into, s * k.u_plane)

    def _panel_sums(self, panel: Value) -> Value:
        slot = self.e.b.sub(panel, self.first_panel)
        return self.e.at(self.sums, self.e.b.mul(slot, i64(self.kernel.planes * self.kernel.m_plane)))

    def multiply(self, panel: Value, start: Value, count: Value) -> None:
        e, k = self.e, self.kernel
        partition = Partition.of(k.tile_block, k.tile_rows)
        accumulate = e.b.icmp_signed(">", start, i64(0))
        sums = self._panel_sums(panel)
        with e.loop(0, k.planes) as s, e.loop(0, partition.groups) as group:
            row = partition.start(e, group)
            a = e.at(self.v, e.b.add(e.b.mul(s, i64(k.v_plane)), e.b.mul(row, i64(k.depth_block))))
            b = e.at(self.u, e.b.mul(s, i64(k.u_plane)))
            c = e.at(sums, e.b.add(e.b.mul(s, i64(k.m_plane)), e.b.mul(row, i64(k.panel_width))))
            call_by_group(e, partition, k.vectors, k.depth_block, 1, group, a, b, c, count, accumulate)

    def transform_output(self, panel: Value, index: Value) -> None:
        e, k = self.e, self.kernel
        n, matrix = k.transform.products, floats(k.transform.output)
        batch, row, column = self._place(index)
        epilogue = Epilogue(e, k.steps, k.vectors, k.vectors, k.columns, k.height * k.width, panel, batch)
        source = e.at(self._panel_sums(panel), e.b.mul(index, i64(k.panel_width)))
        top, left = e.b.mul(row, i64(k.m)), e.b.mul(column, i64(k.m))
        origin = e.b.add(e.b.mul(batch, i64(k.height)), top)
        origin = e.b.add(e.b.mul(origin, i64(k.width)), left)
        for v in range(k.vectors):
            tile = [
                [e.load_vector(source, (i * n + j) * k.m_plane + v * k.lanes) for j in range(n)]
                for i in range(n)
            ]
            for pixel, value in enumerate(chain(*transforms.apply_2d(e, matrix, tile))):
                e.store_vector(value, self.pixels, pixel * k.panel_width + v * k.lanes)
        # Through memory once more, so that the epilogue is emitted once and not for each of the m^2 pixels.
        with e.loop(0, k.m * k.m) as number:
            i, j = e.b.sdiv(number, i64(k.m)), e.b.srem(number, i64(k.m))
            row_inside = self._inside(e.b.add(top, i), k.height, k.height % k.m > 0)
            column_inside = self._inside(e.b.add(left, j), k.width, k.width % k.m > 0)
            with e.when(e.b.and_(row_inside, column_inside)):
                pixel = e.b.add(origin, e.b.add(e.b.mul(i, i64(k.width)), j))
                values = e.at(self.pixels, e.b.mul(number, i64(k.panel_width)))
                for v in range(k.vectors):
                    value = epilogue.apply(v, e.load_vector(values, v * k.lanes), pixel)
                    epilogue.store(v, value, operand(e, 2), pixel, k.out_stride)

    def _inside(self, position: Value, extent: int, needed: bool) -> Value:
        """Whether a row or column is inside of a map; true where it is known to be."""
        if not needed:
            return ir.Constant(I1, 1)
        return self.e.b.icmp_unsigned("<", position, i64(extent))
