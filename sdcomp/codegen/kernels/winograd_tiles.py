"""The map tiles of a Winograd convolution: where they are, and how V = B^T d B of them is laid out."""

from dataclasses import dataclass

from sdcomp.codegen.builder import Emitter, Value, i64
from sdcomp.winograd.matrices import Transform, transform

LINE_FLOATS = 16
_TILES_PER_RUN = 4


@dataclass(frozen=True)
class Normalisation:
    """A group norm that is applied to pixels as they are read, and the activation behind it."""

    activation: str | None


@dataclass(frozen=True)
class Part:
    """Channels of a map that are side by side in memory, pixels `stride` f32 apart."""

    channels: int
    stride: int


@dataclass(frozen=True)
class TileGrid:
    """Static shape: m x m pixels of `batches` maps of height x width are a tile, `block` tiles a block.

    The input has samples of source_height x source_width pixels. Their channels are those of the parts, one
    behind the other; all parts but the last have whole vectors of them. `border` rows and columns of zeros
    are missing above and left of the input, and what windows need below and right. The convolution is of the
    input, normalised if so said, upsampled `scale` times.

    The windows of a block, transformed, are V[plane][tile][channel]. Rows of V are an odd number of cache
    lines long and planes padded by one: else what is read side by side would fall into one set of the
    first-level cache.
    """

    m: int
    scale: int
    batches: int
    height: int
    width: int
    source_height: int
    source_width: int
    border: tuple[int, int]
    parts: tuple[Part, ...]
    lanes: int
    normalisation: Normalisation | None = None
    block: int = 1

    @property
    def transform(self) -> Transform:
        return transform(self.m, self.scale)

    @property
    def depth(self) -> int:
        """Channels of the input."""
        return sum(part.channels for part in self.parts)

    def part_operands(self, second: int) -> tuple[int, ...]:
        """Numbers of a kernel's operands with the parts: the first of all, and those from `second` on."""
        return (0, *range(second, second + len(self.parts) - 1))

    @property
    def planes(self) -> int:
        return self.transform.planes

    @property
    def rows(self) -> int:
        """Tiles down one map."""
        return -(-self.height // self.m)

    @property
    def columns(self) -> int:
        """Tiles across one map."""
        return -(-self.width // self.m)

    @property
    def tiles(self) -> int:
        return self.batches * self.rows * self.columns

    @property
    def blocks(self) -> int:
        return -(-self.tiles // self.block)

    @property
    def elements(self) -> int:
        """Of V, with what fills vectors."""
        return self.planes * self.tiles * self.filled_depth

    # V, in floats

    @property
    def v_row(self) -> int:
        """From one tile to the next."""
        return (-(-self.depth // LINE_FLOATS) | 1) * LINE_FLOATS

    @property
    def v_plane(self) -> int:
        return self.block * self.v_row + LINE_FLOATS

    @property
    def v_block(self) -> int:
        """V of one block."""
        return self.planes * self.v_plane

    # Runs: tiles side by side whose windows are read together

    @property
    def run(self) -> int:
        """The most tiles of a run."""
        return min(self.columns, _TILES_PER_RUN)

    @property
    def run_width(self) -> int:
        """Pixels across the windows of a run."""
        return self.run * self.transform.step + self.transform.inputs - self.transform.step

    @property
    def filled_depth(self) -> int:
        """Channels, and what fills the last vector."""
        return -(-self.depth // self.lanes) * self.lanes

    @property
    def run_floats(self) -> int:
        """The windows of a run."""
        return self.transform.inputs * self.run_width * self.filled_depth

    def place(self, e: Emitter, number: Value) -> tuple[Value, Value, Value]:
        """Sample, and position in tiles, of tile `number`."""
        row = e.b.sdiv(number, i64(self.columns))
        batch, row = e.b.sdiv(row, i64(self.rows)), e.b.srem(row, i64(self.rows))
        return batch, row, e.b.srem(number, i64(self.columns))
