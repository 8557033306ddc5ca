"""The text encoder: one prompt of all positions."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.cases import Array
from benchmarks.subjects.network import NetworkCase

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class TextCase(NetworkCase):
    """Tokens to hidden states."""

    subject = "text"

    @property
    def name(self) -> str:
        return "one prompt"

    def programs(self) -> list[str]:
        return ["text"]

    def inputs(self) -> dict[str, Array]:
        config = self.config().text
        generator = np.random.default_rng(0)
        tokens = generator.integers(0, config.vocabulary, (1, config.positions), dtype=np.int32)
        return {"tokens": tokens}

    def module(self) -> "torch.nn.Module":
        from benchmarks.oracle import TextEncoder

        return self.with_model(TextEncoder)
