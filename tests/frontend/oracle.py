"""Torch models with random weights as oracles of lowered graphs."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from sdcomp.ir.graph import Node
from sdcomp.ir.ops import build

torch.set_num_threads(1)

Array = npt.NDArray[Any]


def randomise(model: torch.nn.Module, dtype: torch.dtype, seed: int = 0) -> torch.nn.Module:
    """`model` with random norms and biases: torch starts them at 1 and 0, which would hide mistakes."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.data = 0.3 * noise + name.endswith("weight")
    return torch.nn.Module.to(model, dtype).eval().requires_grad_(False)


class OracleWeights:
    """The weights of a torch model under canonical names; remembers which were asked for.

    `translate` makes the model's own name of a canonical one without its prefix. Matrices whose own names
    contain one of `convolutions` are given as 1x1 convolutions.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        prefix: str,
        translate: Callable[[str], str],
        convolutions: tuple[str, ...] = (),
    ) -> None:
        self._prefix = prefix
        self._translate = translate
        self._tensors = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
        for name, tensor in self._tensors.items():
            if tensor.ndim == 2 and any(part in name for part in convolutions):
                self._tensors[name] = tensor[:, :, None, None]
        self.unused = set(self._tensors)

    def node(self, name: str) -> Node:
        own = self._own_name(name)
        self.unused.discard(own)
        return build("weight", name=name, file="model", shape=self._tensors[own].shape, dtype="f32")

    def read(self, node: Node) -> Array:
        return self._tensors[self._own_name(node.text("name"))]

    def _own_name(self, name: str) -> str:
        assert name.startswith(self._prefix)
        return self._translate(name[len(self._prefix) :])


def relative_error(found: Array, expected: torch.Tensor) -> float:
    """norm(found - expected) / norm(expected)."""
    reference = expected.numpy()
    assert found.shape == reference.shape
    return float(np.linalg.norm(found - reference) / np.linalg.norm(reference))
