"""The micro-kernel of attention scores: S[key][query] = K Qt - m, and its maximum over the keys."""

from dataclasses import dataclass

from sdcomp.codegen.builder import POINTER, Emitter, Value, i64, new_function
from sdcomp.codegen.kernels.microkernel import MicroKernel, Partition


@dataclass(frozen=True)
class ScoreKernel:
    """Keys are rows of `channels` f32 with no gaps; Qt is a panel of `vectors` vectors per channel.

    Sums start at -m, so that powers need no subtraction, and the maxima come from registers, so that the
    scores need not be read for them.
    """

    keys: int
    vectors: int
    channels: int

    def call(self, e: Emitter, keys: Value, queries: Value, scores: Value, shift: Value) -> None:
        """`shift` points to m, one panel row, with the largest score so far behind it."""
        symbol = f"scores_{self.keys}x{self.vectors}_{self.channels}"
        if symbol not in e.module.globals:
            self._emit(new_function(e.module, symbol, [POINTER] * 4, e.target, internal=True))
        e.b.call(e.module.globals[symbol], [keys, queries, scores, shift])

    def _emit(self, e: Emitter) -> None:
        keys, queries, scores, shift = e.function.args
        for pointer in (keys, queries, scores, shift):
            pointer.add_attribute("noalias")
        lanes = e.target.lanes
        start = [e.b.fneg(e.load_vector(shift, v * lanes)) for v in range(self.vectors)]
        kernel = MicroKernel(self.keys, self.vectors, self.channels, 1)
        sums = kernel.multiply(e, keys, queries, i64(self.channels), start * self.keys)
        for index, value in enumerate(sums):
            e.store_vector(value, scores, index * lanes)
        for v in range(self.vectors):
            at = (self.vectors + v) * lanes
            highest = e.load_vector(shift, at)
            for value in sums[v :: self.vectors]:
                highest = e.maximum(highest, value)
            e.store_vector(highest, shift, at)
        e.b.ret_void()


def score_block(
    e: Emitter,
    partition: Partition,
    vectors: int,
    channels: int,
    keys: Value,
    queries: Value,
    scores: Value,
    shift: Value,
) -> None:
    """All keys of a block, group by group."""
    width = vectors * e.target.lanes
    for first, count, size in partition.runs():
        kernel = ScoreKernel(size, vectors, channels)
        with e.loop(0, count) as group:
            key = e.b.add(e.b.mul(group, i64(size)), i64(first))
            a, into = e.at(keys, e.b.mul(key, i64(channels))), e.at(scores, e.b.mul(key, i64(width)))
            kernel.call(e, a, queries, into, shift)
