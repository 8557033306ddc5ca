"""V = B^T d B of a run of map tiles side by side.

The pixels of the run's windows are first put into scratch memory: normalised if the grid says so, with zeros
where windows reach outside of the map. Windows overlap, so that most rows are normalised one and a half
times; that costs what writing and reading a normalised map would, which need not exist. Then every window is
transformed, all channels at once: planes of V are many pages apart, and each visit should be worth its way.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain

from sdcomp.codegen.builder import Emitter, Value, i64
from sdcomp.codegen.kernels import transforms
from sdcomp.codegen.kernels.group_norm import FACTORS, apply_factors
from sdcomp.codegen.kernels.winograd_tiles import Part, TileGrid
from sdcomp.winograd.matrices import floats


@dataclass
class Run:
    """Emits the run of `count` tiles that begins with tile `first`; none of them is in another row.

    `x` are the parts of the input, `factors` those of the normalisation if there is one, `pixels` scratch
    memory of `run_floats`. `v(tile)` is where the row of V of a tile, counted from the first, begins.
    """

    e: Emitter
    grid: TileGrid
    x: Sequence[Value]
    factors: Value
    pixels: Value
    first: Value
    count: Value
    v: Callable[[Value], Value]

    def __post_init__(self) -> None:
        e, grid = self.e, self.grid
        self.batch, row, column = grid.place(e, self.first)
        step = i64(grid.transform.step)
        self.top = e.b.sub(e.b.mul(row, step), i64(grid.border[0]))
        self.left = e.b.sub(e.b.mul(column, step), i64(grid.border[1]))
        overlap = grid.transform.inputs - grid.transform.step
        self.width = e.b.add(e.b.mul(self.count, step), i64(overlap))

    def transform(self) -> None:
        """All of the run."""
        self._read()
        with self.e.loop(0, self.count) as tile:
            self._transform_window(tile)

    def _read(self) -> None:
        """The pixels of all windows to scratch memory."""
        e, grid = self.e, self.grid
        left = e.minimum_integer(e.maximum_integer(e.b.neg(self.left), i64(0)), self.width)
        right = e.minimum_integer(e.b.sub(i64(grid.source_width), self.left), self.width)
        with e.loop(0, grid.transform.inputs) as i:
            into = e.at(self.pixels, e.b.mul(i, i64(grid.run_width * grid.filled_depth)))
            row = e.b.add(self.top, i)
            inside = e.b.icmp_unsigned("<", row, i64(grid.source_height))
            begin, end = e.b.select(inside, left, self.width), e.b.select(inside, right, self.width)
            line = e.b.add(e.b.mul(self.batch, i64(grid.source_height)), row)
            line = e.b.add(e.b.mul(line, i64(grid.source_width)), self.left)
            for start, stop in ((i64(0), begin), (end, self.width)):
                with e.loop(start, stop) as j, e.loop(0, grid.filled_depth, grid.lanes) as channel:
                    e.store_vector(e.zeros(), into, e.b.add(e.b.mul(j, i64(grid.filled_depth)), channel))
            firsts = accumulate((part.channels for part in grid.parts), initial=0)
            for first, part, x in zip(firsts, grid.parts, self.x, strict=False):
                self._read_part(part, first, e.at(x, e.b.mul(line, i64(part.stride))), into, begin, end)

    def _read_part(
        self, part: Part, first: int, source: Value, into: Value, begin: Value, end: Value
    ) -> None:
        """A part of pixels begin <= j < end of a row, whose channels are those from `first` on."""
        e, grid = self.e, self.grid
        with e.loop(begin, end) as j, e.loop(0, part.channels, grid.lanes) as channel:
            mask = e.mask(e.b.sub(i64(part.channels), channel)) if part.channels % grid.lanes else None
            value = e.load_masked(e.at(source, e.b.mul(j, i64(part.stride))), channel, mask)
            channel = e.b.add(channel, i64(first))
            at = e.b.add(e.b.mul(j, i64(grid.filled_depth)), channel)
            e.store_vector(self._normalised(value, channel, mask), into, at)

    def _normalised(self, value: Value, channel: Value, mask: Value | None) -> Value:
        e, grid = self.e, self.grid
        if grid.normalisation is None:
            return value
        factors = e.at(self.factors, e.b.mul(self.batch, i64(FACTORS * grid.depth)))
        return apply_factors(e, value, factors, grid.depth, channel, mask, grid.normalisation.activation)

    def _transform_window(self, tile: Value) -> None:
        e, grid = self.e, self.grid
        size, width, channels = range(grid.transform.inputs), grid.run_width, grid.filled_depth
        window, v = e.at(self.pixels, e.b.mul(tile, i64(grid.transform.step * channels))), self.v(tile)
        with e.loop(0, channels, grid.lanes) as channel:
            source, into = e.at(window, channel), e.at(v, channel)
            pixels = [[e.load_vector(source, (i * width + j) * channels) for j in size] for i in size]
            planes = chain(*transforms.apply_2d(e, floats(grid.transform.input), pixels))
            for s, value in enumerate(planes):
                e.store_vector(value, into, s * grid.v_plane)
