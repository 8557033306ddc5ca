"""Whole small networks: compiled programs against the interpreter in f64, before and after the passes of a
build.
"""

from collections.abc import Mapping

import numpy as np
import pytest

from sdcomp.codegen.targets import resolve
from sdcomp.ir.graph import Module, Node
from sdcomp.ir.types import Array, DType
from tests.checkpoints import random_tensors, small_config
from tests.codegen.networks import lower_stored, optimise
from tests.differential.compare import compiled, reference, rounded_matrices
from tests.passes.graphs import error

TINY = small_config(
    unet={"res_blocks": 1},
    text={"layers": 1, "vocabulary": 64},
    vae={"encoder_res_blocks": 1, "decoder_res_blocks": 1},
)
SIZE = (32, 32)

EXACT = 1e-5
"""Hundreds of layers in f32."""


class Network:
    """One network of a random checkpoint."""

    def __init__(self, name: str, stored: str) -> None:
        self.tensors = random_tensors(TINY, stored)
        module = lower_stored(TINY, SIZE, DType(stored))
        (self.graph,) = (graph for graph in module if graph.name == name)
        self.inputs = {node.text("name"): _input(node) for node in self.graph.inputs()}

    def read(self, node: Node) -> Array:
        return self.tensors[node.text("name")]

    def compiled(self, policy: str) -> dict[str, Array]:
        """After the passes of a build."""
        return compiled(
            list(optimise(Module((self.graph,)), resolve("native"))), self.inputs, self.read, policy
        )

    def error(self, found: Mapping[str, Array], rounded: bool = False) -> float:
        """Distance from the network as it was lowered, in f64; or from one with matrices rounded to f16."""
        matrices = rounded_matrices([self.graph]) if rounded else set()

        def read(node: Node) -> Array:
            values = self.read(node)
            return (values.astype(np.float16) if node in matrices else values).astype(np.float64)

        expected = reference([self.graph], self.inputs, read)
        assert set(found) == set(expected)
        return max(error(found[name].astype(np.float64), expected[name]) for name in expected)


def _input(node: Node) -> Array:
    generator = np.random.default_rng(len(node.text("name")))
    if node.dtype is DType.I32:
        return generator.integers(0, TINY.text.vocabulary, node.shape).astype(np.int32)
    if node.text("name") == "timestep":
        return np.full(node.shape, 431.5, np.float32)
    return generator.standard_normal(node.shape).astype(np.float32)


@pytest.mark.parametrize("name", ["text", "unet@32x32x2", "vae_decoder@32x32"])
def test_stored_halves_are_exact(name: str) -> None:
    """An f16 checkpoint loses nothing: its matrices stay f16, everything else becomes f32."""
    network = Network(name, "f16")
    assert network.error(network.compiled("auto")) <= EXACT


@pytest.mark.parametrize("name", ["unet@32x32x1", "vae_encoder@32x32"])
def test_f32_policy_is_exact(name: str) -> None:
    network = Network(name, "f32")
    assert network.error(network.compiled("f32")) <= EXACT


@pytest.mark.parametrize("name", ["text", "vae_decoder@32x32"])
def test_f16_policy_rounds_matrices_and_nothing_else(name: str) -> None:
    """Like the network whose matrices are rounded, and measurably unlike the one whose are not."""
    network = Network(name, "f32")
    found = network.compiled("f16")
    assert network.error(found, rounded=True) <= EXACT
    assert 1e-5 < network.error(found) <= 2e-3
