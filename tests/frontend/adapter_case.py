"""One module of an adapter file, applied to one weight: what tests of the algorithms have in common."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from sdcomp.frontend.adapters import Group, open_adapter
from sdcomp.frontend.adapters.algorithms import ALGORITHMS
from sdcomp.frontend.weights import WeightSource
from sdcomp.ir.graph import Node
from sdcomp.ir.interpret import evaluate
from sdcomp.passes.fold_kronecker import FoldKronecker
from tests.passes.graphs import Array, module, weight

BOUND = 1e-6


class Tensors:
    """A checkpoint in memory."""

    def __init__(self, tensors: Mapping[str, Array]) -> None:
        self._tensors = tensors

    def read(self, name: str) -> Array:
        return self._tensors[name]


def random(*shape: int, seed: int = 0, scale: float = 1.0) -> Array:
    values = np.random.default_rng((seed, *shape)).standard_normal(shape)
    return np.asarray((scale * values).astype(np.float32))


def scalar(value: float) -> Array:
    return np.array(value, np.float32)


def wide(tensors: Mapping[str, Array]) -> dict[str, Array]:
    return {name: value.astype(np.float64) for name, value in tensors.items()}


def changed(
    folder: Path,
    tensors: Mapping[str, Array],
    before: Array,
    strength: float = 1.0,
    metadata: dict[str, str] | None = None,
    name: str = "m",
    bias: bool = False,
) -> Array:
    """`before` with an adapter applied that has these tensors by suffix, as the build computes it.

    It is also computed before `fold_kronecker` simplified it; both must agree.
    """
    path = folder / "adapter.safetensors"
    save_file({f"{name}.{suffix}": np.asarray(v) for suffix, v in tensors.items()}, path, metadata)
    with open_adapter(path) as adapter:
        (group,) = adapter.groups
        after = _change(group, bias, weight("w", before.shape), strength)
        folded = FoldKronecker().apply(module(w=after)).graphs[0].outputs["w"]
        source = WeightSource(Tensors({"w": before}), [adapter])
        values = [evaluate(node, source.read_weight) for node in (after, folded)]
    assert values[0].dtype == np.float32
    assert values[0].shape == before.shape
    np.testing.assert_allclose(values[0], values[1], rtol=1e-5, atol=1e-5 * np.abs(values[0]).max())
    return values[1]


def _change(group: Group, bias: bool, node: Node, strength: float) -> Node:
    algorithm = ALGORITHMS[group.algorithm]
    change = algorithm.bias if bias else algorithm.weight
    assert change is not None
    return change(group, "adapter0", node, strength)


def dora(before: Any, delta: Any, lengths: Any, axis: int, strength: float, eps: float = 2.0**-23) -> Array:
    """DoRA in f64, as its paper has it: every row (axis 0) or column (axis 1) of W + delta gets a length."""
    total = before.astype(np.float64) + delta
    result = np.zeros_like(total)
    for index in range(total.shape[axis]):
        place = (slice(None),) * axis + (index,)
        norm = np.linalg.norm(total[place].reshape(-1)) + eps
        result[place] = total[place] * lengths.astype(np.float64).reshape(-1)[index] / norm
    return before + strength * (result - before)
