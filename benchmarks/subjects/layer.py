"""What single layers share: a graph of one operation, compiled and run like a network."""

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.cases import Array, Case, Program
from benchmarks.subjects.network import load_artifact

if TYPE_CHECKING:
    from sdcomp.ir.graph import Node

_ARTIFACT = "layer.so"
_PROGRAM = "layer"


@dataclass(frozen=True)
class LayerCase(Case):
    """One operation. Weights are halves, as checkpoints store them; peers get the same numbers in f32."""

    @abstractmethod
    def node(self) -> "Node":
        """The operation over `input` nodes and `weight` nodes."""

    @abstractmethod
    def inputs(self) -> dict[str, Array]:
        """The arrays of its `input` nodes by name, in the compiler's layout."""

    def weights(self) -> dict[str, Array]:
        """The arrays of its `weight` nodes by name."""
        return {}

    def finish_ours(self, outputs: list[Array]) -> list[Array]:
        """Our outputs in the layout in which programs are compared."""
        return outputs

    def prepare_ours(self, folder: Path) -> None:
        write_layer(self.node(), self.weights(), folder / _ARTIFACT)

    def load_ours(self, folder: Path, threads: int) -> Program:
        program = load_artifact(folder / _ARTIFACT, threads, [], [_PROGRAM], self.inputs())
        return Program(program.evaluate, program.multiplies, self.finish_ours)


def write_layer(node: "Node", weights: Mapping[str, Array], path: Path) -> None:
    """Compiles one node with the whole pipeline into an artifact with the program `layer`."""
    from sdcomp.codegen.artifact import Recipe, write_artifact
    from sdcomp.codegen.costs import load_costs
    from sdcomp.codegen.targets import resolve
    from sdcomp.ir.graph import Graph, Module
    from sdcomp.passes.pipeline import PipelineOptions, pipeline, run_pipeline

    target = resolve("native")
    passes = pipeline(PipelineOptions(costs=load_costs(target)))
    module = run_pipeline(passes, Module((Graph(_PROGRAM, {"output": node}),)))
    recipe = Recipe(module, lambda weight: weights[weight.text("name")], target, "auto", {})
    write_artifact(recipe, path, lambda stage, done, total: None)


def random_input(seed: int, *shape: int) -> Array:
    """f32, normal."""
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def random_weight(*shape: int) -> Array:
    """f16, normal with variance one over the number of inputs."""
    values = np.random.default_rng(1).standard_normal(shape, np.float32)
    return (values / math.sqrt(math.prod(shape[1:]))).astype(np.float16)
