"""Transposition of a square block of vectors in registers."""

import llvmlite.ir as ir

from sdcomp.codegen.builder import I32, Emitter, Value


def transpose(e: Emitter, rows: list[Value]) -> list[Value]:
    """`lanes` vectors of a lanes x lanes block, rows to columns.

    log2(lanes) rounds of interleaving: a round takes vectors i and i + lanes/2 to their interleaved halves 2i
    and 2i + 1, which rotates the bits of (vector, lane) by one place; after log2(lanes) rounds vector and
    lane have changed places (the perfect shuffle of Stone 1971).
    """
    lanes = e.target.lanes
    half = lanes // 2
    low = [lane for pair in range(half) for lane in (pair, lanes + pair)]
    masks = [_indices(low), _indices([lane + half for lane in low])]
    for _ in range(lanes.bit_length() - 1):
        pairs = zip(rows[:half], rows[half:], strict=True)
        rows = [e.b.shuffle_vector(a, b, mask) for a, b in pairs for mask in masks]
    return rows


def _indices(lanes: list[int]) -> Value:
    return ir.Constant(ir.VectorType(I32, len(lanes)), lanes)
