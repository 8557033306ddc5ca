"""A 3x3 convolution of stride 1 as F(m x m, 3 x 3), of a map or of the same map upsampled (matrices:
`winograd/matrices.py`).

A tile of work is a block of map tiles times one or all panels of weights. The planes s of the transforms are
taken in groups of a few rows; for each panel and group, block of input channels by block of input channels:

    V[s][tile][k]       = B^T d B       vectors over channels
    U[s][k][column]     = G g G^T       from the plain stored filters, just in time, vectors over columns
    M[s][tile][column] += V[s] U[s]     n^2 products, by the micro-kernel

and at the end Y = A^T M A, through the epilogue, vectors over columns. Transformed filters never exist as a
whole: they would be 4 times as large as plain ones for m = 4. A group of planes rather than all of them at
once leaves room in the second-level cache for deep blocks, so that M is seldom loaded and stored.

Where a map has many tiles, V of a block is computed here, into scratch memory, and serves all panels. Where
it has few, panels are the tiles of work, and V of the whole map comes from a `WinogradInput` before.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain

import llvmlite.ir as ir

from sdcomp.codegen.builder import ELEMENT, I1, Emitter, Value, i64
from sdcomp.codegen.kernels import transforms
from sdcomp.codegen.kernels.base import Kernel, operand, scratch
from sdcomp.codegen.kernels.epilogue import Epilogue, Step, operand_behind
from sdcomp.codegen.kernels.live import OPERANDS as LIVE_OPERANDS
from sdcomp.codegen.kernels.live import KroneckerTerm, LiveWeights
from sdcomp.codegen.kernels.microkernel import Partition, call_by_group
from sdcomp.codegen.kernels.winograd_input import WinogradInput
from sdcomp.codegen.kernels.winograd_run import Run
from sdcomp.codegen.kernels.winograd_tiles import LINE_FLOATS, TileGrid
from sdcomp.codegen.targets import Target
from sdcomp.winograd.matrices import TAPS, floats

_TILES_PER_BLOCK = 66
_ENOUGH_TILES = 12


@dataclass(frozen=True)
class WinogradConvolution(Kernel):
    """Static shape. Operands: x or V, w in panels, out, one per step that takes one, then those of `live`
    terms; unless V is given, then the factors of the grid's normalisation and the parts of x but the first.

    The output is the grid's maps of `columns` channels, rows `out_stride` f32 apart. The first operand is V
    if it is `prepared`.
    """

    grid: TileGrid
    columns: int
    out_stride: int
    weight_dtype: str
    steps: tuple[Step, ...]
    vectors: int
    tile_rows: int
    prepared: bool = False
    depth_block: int = 1
    live: tuple[KroneckerTerm, ...] = ()

    kind = "winograd"

    @property
    def stages(self) -> tuple[Kernel, ...]:
        """The kernels that make one convolution, in their order."""
        return (WinogradInput(self.grid), self) if self.prepared else (self,)

    @property
    def lanes(self) -> int:
        return self.grid.lanes

    @property
    def panel_width(self) -> int:
        return self.vectors * self.lanes

    @property
    def panels(self) -> int:
        return -(-self.columns // self.panel_width)

    @property
    def tiles(self) -> int:
        return self.grid.blocks * (self.panels if self.prepared else 1)

    @property
    def multiplies(self) -> int:
        grid, changed = self.grid, sum(term.stop - term.start for term in self.live)
        products = grid.planes * grid.tiles * grid.depth * self.columns
        return products + grid.blocks * TAPS * TAPS * grid.depth * changed

    @property
    def work(self) -> Mapping[str, int]:
        """Products, and elements of V, U and M that are transformed, with what fills vectors and panels."""
        grid, columns = self.grid, self.panels * self.panel_width
        return {
            "multiply": grid.planes * grid.tiles * grid.depth * columns,
            "input": 0 if self.prepared else grid.elements,
            "filter": grid.planes * grid.depth * columns * grid.blocks,
            "output": grid.planes * grid.tiles * columns,
        }

    @property
    def plane_rows(self) -> tuple[tuple[int, ...], ...]:
        """Groups of the rows of planes. Live terms change filters once, so all planes are one group then."""
        if self.live:
            return (tuple(range(self.grid.transform.products)),)
        return transforms.row_pairs(floats(self.grid.transform.filter))

    @property
    def group_planes(self) -> int:
        """Planes of the largest group."""
        return self.grid.transform.products * max(map(len, self.plane_rows))

    @property
    def live_operand(self) -> int:
        """Number of the first operand of the live terms."""
        return operand_behind(self.steps)

    @property
    def factors_operand(self) -> int:
        """Number of the operand with the factors of a normalisation, if there is one."""
        return self.live_operand + LIVE_OPERANDS * len(self.live)

    @property
    def input_operands(self) -> tuple[int, ...]:
        """Numbers of the operands with the parts of x."""
        return self.grid.part_operands(self.factors_operand + (self.grid.normalisation is not None))

    # Scratch: V, U of a group, M, and pixels, of a run's windows or of a tile's finished sums; in floats

    @property
    def u_plane(self) -> int:
        return self.depth_block * self.panel_width + LINE_FLOATS

    @property
    def m_plane(self) -> int:
        return self.grid.block * self.panel_width + LINE_FLOATS

    @property
    def u_start(self) -> int:
        return 0 if self.prepared else self.grid.v_block

    @property
    def m_start(self) -> int:
        return self.u_start + self.group_planes * self.u_plane

    @property
    def pixels_start(self) -> int:
        return self.m_start + self.grid.planes * self.m_plane

    def scratch_bytes(self, target: Target) -> int:
        output = self.grid.m**2 * self.panel_width
        return 4 * (self.pixels_start + max(output, 0 if self.prepared else self.grid.run_floats))

    def tiled(self, target: Target) -> "WinogradConvolution":
        """The same kernel with its tile sizes chosen for the target's caches.

        U of one panel and group of planes takes a third of the second-level cache.
        """
        grid = self.grid
        grid = replace(grid, block=-(-grid.tiles // -(-grid.tiles // _TILES_PER_BLOCK)))
        most_depth = max(self.lanes, target.l2_bytes // 3 // (4 * self.group_planes * self.panel_width))
        blocks = -(-grid.depth // most_depth)
        depth_block = -(-grid.depth // (blocks * self.lanes)) * self.lanes
        return replace(self, grid=grid, depth_block=depth_block, prepared=grid.blocks < _ENOUGH_TILES)

    # Emission

    def emit_tile(self, e: Emitter, tile: Value) -> None:
        work = _Work(self, e, tile)
        if not self.prepared:
            work.transform_input()
        with e.loop(work.first_panel, work.last_panel) as panel:
            for rows in self.plane_rows:
                with e.loop(0, self.grid.depth, self.depth_block) as start:
                    count = e.minimum_integer(i64(self.depth_block), e.b.sub(i64(self.grid.depth), start))
                    work.transform_filters(rows, panel, start, count)
                    work.multiply(rows, start, count)
            with e.loop(0, work.count) as index:
                work.transform_output(panel, index)


@dataclass
class _Work:
    """One tile of work."""

    kernel: WinogradConvolution
    e: Emitter
    tile: Value

    def __post_init__(self) -> None:
        e, k = self.e, self.kernel
        block = e.b.sdiv(self.tile, i64(k.panels)) if k.prepared else self.tile
        self.first = e.b.mul(block, i64(k.grid.block))
        self.count = e.minimum_integer(i64(k.grid.block), e.b.sub(i64(k.grid.tiles), self.first))
        self.first_panel = e.b.srem(self.tile, i64(k.panels)) if k.prepared else i64(0)
        self.last_panel = e.b.add(self.first_panel, i64(1)) if k.prepared else i64(k.panels)
        self.v = e.at(operand(e, 0), e.b.mul(block, i64(k.grid.v_block))) if k.prepared else scratch(e)
        self.u = scratch(e, k.u_start)
        self.sums = scratch(e, k.m_start)
        self.pixels = scratch(e, k.pixels_start)

    def transform_input(self) -> None:
        """V of the block: the part of each row of tiles that is in it, run by run."""
        e, k, grid = self.e, self.kernel, self.kernel.grid
        columns, last = i64(grid.columns), e.b.add(self.first, self.count)
        factors = operand(e, k.factors_operand) if grid.normalisation else None
        x = [operand(e, number) for number in k.input_operands]
        row_end = e.b.sdiv(e.b.add(last, i64(grid.columns - 1)), columns)
        with e.loop(e.b.sdiv(self.first, columns), row_end) as row:
            begin = e.maximum_integer(self.first, e.b.mul(row, columns))
            end = e.minimum_integer(last, e.b.mul(e.b.add(row, i64(1)), columns))
            with e.loop(begin, end, grid.run) as tile:
                count = e.minimum_integer(i64(grid.run), e.b.sub(end, tile))
                row_of = partial(self._row, e.b.sub(tile, self.first))
                Run(e, grid, x, factors, self.pixels, tile, count, row_of).transform()

    def _row(self, first: Value, index: Value) -> Value:
        """Where V of a tile begins, `index` behind number `first` of the block."""
        e = self.e
        return e.at(self.v, e.b.mul(e.b.add(first, index), i64(self.kernel.grid.v_row)))

    def transform_filters(self, rows: tuple[int, ...], panel: Value, start: Value, count: Value) -> None:
        e, k = self.e, self.kernel
        matrix, width, depth = floats(k.grid.transform.filter), k.panel_width, k.grid.depth
        first = e.b.add(e.b.mul(panel, i64(TAPS * TAPS * depth)), start)
        source = e.at(operand(e, 1), e.b.mul(first, i64(width)), ELEMENT[k.weight_dtype])
        live = LiveWeights(e, k.live, k.live_operand, panel)
        with e.loop(0, e.b.mul(count, i64(width)), k.lanes) as at:
            taps = [
                e.load_vector(source, e.b.add(at, i64(tap * depth * width)), k.weight_dtype)
                for tap in range(TAPS * TAPS)
            ]
            row, column = e.b.udiv(at, i64(width)), e.b.urem(at, i64(width))
            taps = live.adapt(taps, e.b.add(start, row), column, width)
            filters = [taps[first : first + TAPS] for first in range(0, TAPS * TAPS, TAPS)]
            into = e.at(self.u, at)
            for s, value in enumerate(chain(*transforms.apply_2d(e, matrix, filters, rows))):
                e.store_vector(value, into, s * k.u_plane)

    def multiply(self, rows: tuple[int, ...], start: Value, count: Value) -> None:
        e, k = self.e, self.kernel
        n, partition = k.grid.transform.products, Partition.of(k.grid.block, k.tile_rows)
        accumulate = e.b.icmp_signed(">", start, i64(0))
        for number, row in enumerate(rows):
            with e.loop(0, n) as column, e.loop(0, partition.groups) as group:
                s, u = e.b.add(column, i64(row * n)), e.b.add(column, i64(number * n))
                tile = partition.start(e, group)
                v = e.b.add(e.b.mul(s, i64(k.grid.v_plane)), e.b.mul(tile, i64(k.grid.v_row)))
                a = e.at(self.v, e.b.add(v, start))
                b = e.at(self.u, e.b.mul(u, i64(k.u_plane)))
                m = e.b.add(e.b.mul(s, i64(k.m_plane)), e.b.mul(tile, i64(k.panel_width)))
                c = e.at(self.sums, m)
                call_by_group(
                    e, partition, k.vectors, k.grid.v_row, 1, group, a, b, c, count, accumulate, prefetch=True
                )

    def transform_output(self, panel: Value, index: Value) -> None:
        e, k, grid = self.e, self.kernel, self.kernel.grid
        n, matrix = grid.transform.products, floats(grid.transform.output)
        batch, row, column = grid.place(e, e.b.add(self.first, index))
        epilogue = Epilogue(
            e, k.steps, k.vectors, k.vectors, k.columns, grid.height * grid.width, panel, batch
        )
        source = e.at(self.sums, e.b.mul(index, i64(k.panel_width)))
        top, left = e.b.mul(row, i64(grid.m)), e.b.mul(column, i64(grid.m))
        origin = e.b.add(e.b.mul(batch, i64(grid.height)), top)
        origin = e.b.add(e.b.mul(origin, i64(grid.width)), left)
        for v in range(k.vectors):
            tile = [
                [e.load_vector(source, (i * n + j) * k.m_plane + v * k.lanes) for j in range(n)]
                for i in range(n)
            ]
            for pixel, value in enumerate(chain(*transforms.apply_2d(e, matrix, tile))):
                e.store_vector(value, self.pixels, pixel * k.panel_width + v * k.lanes)
        # Through memory once more, so that the epilogue is emitted once and not for each of the m^2 pixels.
        with e.loop(0, grid.m**2) as number:
            i, j = e.b.sdiv(number, i64(grid.m)), e.b.srem(number, i64(grid.m))
            row_inside = self._inside(e.b.add(top, i), grid.height, grid.height % grid.m > 0)
            column_inside = self._inside(e.b.add(left, j), grid.width, grid.width % grid.m > 0)
            with e.when(e.b.and_(row_inside, column_inside)):
                pixel = e.b.add(origin, e.b.add(e.b.mul(i, i64(grid.width)), j))
                values = e.at(self.pixels, e.b.mul(number, i64(k.panel_width)))
                for v in range(k.vectors):
                    value = epilogue.apply(v, e.load_vector(values, v * k.lanes), pixel)
                    epilogue.store(v, value, operand(e, 2), pixel, k.out_stride)

    def _inside(self, position: Value, extent: int, needed: bool) -> Value:
        """Whether a row or column is inside of a map; true where it is known to be."""
        if not needed:
            return ir.Constant(I1, 1)
        return self.e.b.icmp_unsigned("<", position, i64(extent))
