"""Attention without a score matrix: online softmax over blocks of keys, queries in the vector lanes.

With queries in the lanes and keys in the rows, the running maximum and sum of softmax are plain vectors:
nothing is ever summed across lanes. Per block of keys and panel of `width` queries (Milakov and Gimelshein
2018; Dao et al. 2022):

    S[key][query]      = K[key][:] Qt[:][query] - m      micro-kernel; Qt is scaled by log2(e) / sqrt(d)
    P = 2^S,  l = l + sum P
    Ot[channel][query] = Ot + V[:][channel] P            micro-kernel; V is read transposed, in place

m is the maximum of the first block of keys. Where a later score exceeds it by more than a few powers of two,
m, S, l and Ot are shifted to the new maximum first: rarely, so that most blocks neither search for maxima nor
rescale anything. The result does not depend on m but for rounding.

A tile of work is a block of panels of one head. Blocks of K and V are copied together once and serve every
panel: in place, the rows of a head lie a page's third apart, and neither the first-level cache nor the
translation of addresses would hold them.
"""

from dataclasses import dataclass, replace
from itertools import accumulate

from sdcomp.codegen.builder import Emitter, Value, i64
from sdcomp.codegen.kernels.attention_tile import AttentionTile
from sdcomp.codegen.kernels.base import Kernel
from sdcomp.codegen.targets import Target

_MOST_PANELS = 16
_ENOUGH_TILES = 24
_FEWEST_KEYS = 32
"""Below, loading and storing the sums of a block would show."""


@dataclass(frozen=True)
class Layout:
    """Offsets in scratch memory, in floats: Qt, Ot, m and l of all panels; a block's S, K and V; the end."""

    queries: int
    sums: int
    shifts: int
    totals: int
    scores: int
    keys: int
    values: int
    floats: int


@dataclass(frozen=True)
class Attention(Kernel):
    """Static shape. Operands: q, k, v, out; rows of all heads with the given strides; a batch of 1 serves
    every sample.
    """

    batches: int
    query_batches: int
    key_batches: int
    heads: int
    queries: int
    keys: int
    channels: int
    query_stride: int
    key_stride: int
    value_stride: int
    out_stride: int
    causal: bool
    vectors: int
    tile_rows: int
    lanes: int
    panels: int = 1
    key_block: int = 1

    kind = "attention"

    @property
    def width(self) -> int:
        """Queries per panel."""
        return self.vectors * self.lanes

    @property
    def all_panels(self) -> int:
        """Panels of one head."""
        return -(-self.queries // self.width)

    @property
    def query_blocks(self) -> int:
        return -(-self.all_panels // self.panels)

    @property
    def tiles(self) -> int:
        return self.batches * self.heads * self.query_blocks

    @property
    def multiplies(self) -> int:
        return 2 * self.batches * self.heads * self.queries * self.keys * self.channels

    @property
    def layout(self) -> "Layout":
        """Where everything lies in scratch memory."""
        panels = self.panels * self.channels * self.width
        running, block = self.panels * self.width, self.key_block * self.channels
        scores = max(self.key_block * self.width, self.lanes**2)
        sizes = (panels, panels, 2 * running, running, scores, block, block)
        return Layout(*accumulate(sizes, initial=0))

    def scratch_bytes(self, target: Target) -> int:
        return 4 * self.layout.floats

    def tiled(self, target: Target) -> "Attention":
        """The same kernel with its tile sizes chosen for the target's caches.

        Qt and Ot of a tile take up to half of the second-level cache; the scores of a block of keys and its
        values two thirds of the first, because the second product reads them several times.
        """
        panel_bytes = 2 * 4 * self.channels * self.width
        panels = max(1, min(_MOST_PANELS, self.all_panels, target.l2_bytes // 2 // panel_bytes))
        best = replace(self, panels=panels, key_block=self._key_block(target))
        while best.tiles < _ENOUGH_TILES and best.panels > 1:
            best = replace(best, panels=(best.panels + 1) // 2)
        return replace(best, panels=-(-self.all_panels // best.query_blocks))

    def _key_block(self, target: Target) -> int:
        """The largest divisor of the keys that fits, if it is not too small; otherwise even blocks."""
        fits = target.l1_bytes * 2 // 3 // (4 * (self.width + self.channels))
        most = min(self.keys, max(_FEWEST_KEYS, fits))
        divisors = [n for n in range(most // 2 + 1, most + 1) if self.keys % n == 0]
        return max(divisors, default=-(-self.keys // -(-self.keys // most)))

    def emit_tile(self, e: Emitter, tile: Value) -> None:
        # Heads of a block follow each other: they share cache lines and pages of q and out.
        head = e.b.srem(tile, i64(self.heads))
        block = e.b.srem(e.b.sdiv(tile, i64(self.heads)), i64(self.query_blocks))
        batch = e.b.sdiv(tile, i64(self.query_blocks * self.heads))
        work = AttentionTile(self, e, batch, head, e.b.mul(block, i64(self.panels * self.width)))
        with work.each_panel() as panel:
            work.load_queries(panel)
        whole = self.keys // self.key_block * self.key_block
        with e.loop(0, whole, self.key_block) as first_key:
            work.attend(first_key, self.key_block)
        if self.keys > whole:
            work.attend(i64(whole), self.keys - whole)
        with work.each_panel() as panel:
            work.store_output(panel)
