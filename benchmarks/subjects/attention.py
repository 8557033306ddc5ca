"""Attention of Stable Diffusion 1.x at 512x512, in the UNet, the text encoder and the autoencoder."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.cases import Array
from benchmarks.subjects.layer import LayerCase, random_input

if TYPE_CHECKING:
    import torch

    from sdcomp.ir.graph import Node


@dataclass(frozen=True)
class AttentionCase(LayerCase):
    """Queries and keys of `heads` heads side by side; torch makes views of heads, as its networks do."""

    queries: int
    keys: int
    heads: int
    channels: int
    causal: bool = False

    subject = "attention"

    @property
    def name(self) -> str:
        causal = ", causal" * self.causal
        return f"{self.queries} to {self.keys}, {self.heads} heads of {self.channels}{causal}"

    def node(self) -> "Node":
        from sdcomp.ir.ops import build

        width = self.heads * self.channels
        tokens = {"q": self.queries, "k": self.keys, "v": self.keys}
        nodes = (
            build("input", name=name, rate="eval", shape=(1, count, width), dtype="f32")
            for name, count in tokens.items()
        )
        return build("attention", *nodes, heads=self.heads, causal=self.causal)

    def inputs(self) -> dict[str, Array]:
        tokens = {"q": self.queries, "k": self.keys, "v": self.keys}
        width = self.heads * self.channels
        return {
            name: random_input(seed, 1, count, width) for seed, (name, count) in enumerate(tokens.items())
        }

    def calls(self) -> list[tuple[Array, ...]]:
        return [tuple(self.inputs().values())]

    def module(self) -> "torch.nn.Module":
        return _attention(self.heads, self.causal)


def _attention(heads: int, causal: bool) -> "torch.nn.Module":
    import torch

    class Attention(torch.nn.Module):
        def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            q, k, v = (x.reshape(*x.shape[:2], heads, -1).transpose(1, 2) for x in (q, k, v))
            attended = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal)
            return attended.transpose(1, 2).flatten(2)

    return Attention()


CASES = (
    AttentionCase(4096, 4096, 8, 40),
    AttentionCase(4096, 4096, 10, 64),
    AttentionCase(1024, 1024, 8, 80),
    AttentionCase(256, 256, 8, 160),
    AttentionCase(4096, 77, 8, 40),
    AttentionCase(77, 77, 12, 64, causal=True),
    AttentionCase(4096, 4096, 1, 512),
)
