"""Evaluates weight expressions for the payload: adapters are folded in here, tensor by tensor."""

import numpy as np

from sdcomp.codegen.weights import PackedWeight
from sdcomp.errors import AdapterError
from sdcomp.ir.graph import Node, topological_order
from sdcomp.ir.interpret import WeightReader, evaluate
from sdcomp.ir.rows import evaluate_rows
from sdcomp.ir.types import Array, DType
from sdcomp.passes.apply_adapters import CHECKPOINT


def fold(weight: PackedWeight, read_weight: WeightReader) -> Array:
    """The packed array of a weight: evaluated in f32 by blocks of rows, rounded to the stored type once.

    Raises AdapterError where adapters make a weight that the stored type cannot hold.
    """
    sources = [node for node in topological_order([weight.node]) if node.op == "weight"]
    adapters = [node for node in sources if node.text("file") != CHECKPOINT]
    if not adapters:
        return weight.layout.pack(evaluate(weight.node, read_weight))
    dtype = weight.layout.dtype
    values = np.empty(weight.node.shape, dtype.numpy)
    least, most = np.float32(np.inf), np.float32(-np.inf)
    with np.errstate(over="ignore", invalid="ignore"):
        for start, rows in evaluate_rows(weight.node, read_weight):
            least, most = np.minimum(least, rows.min()), np.maximum(most, rows.max())
            values[start : start + len(rows)] = rows
    _check_range(float(least), float(most), dtype, sources, adapters)
    return weight.layout.pack(values)


def _check_range(least: float, most: float, dtype: DType, sources: list[Node], adapters: list[Node]) -> None:
    limit = float(np.finfo(dtype.numpy).max)
    if -limit <= least and most <= limit:
        return
    names = [node.text("name") for node in sources if node.text("file") == CHECKPOINT]
    found = f"{least:.3g} to {most:.3g}, more than {dtype.value} can hold"
    raise AdapterError(
        f"{', '.join(names)}: with adapters its values are {found}; lower the strength of the one that has "
        f"{adapters[0].text('name')!r}"
    )
