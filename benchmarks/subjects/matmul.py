"""Linear layers of Stable Diffusion 1.x at 512x512."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.cases import Array
from benchmarks.subjects.layer import LayerCase, random_input, random_weight

if TYPE_CHECKING:
    import torch

    from sdcomp.ir.graph import Node


@dataclass(frozen=True)
class MatmulCase(LayerCase):
    """x[rows, depth] times the transpose of w[columns, depth]."""

    rows: int
    depth: int
    columns: int

    subject = "matmul"

    @property
    def name(self) -> str:
        return f"{self.rows} rows, {self.depth} > {self.columns}"

    def node(self) -> "Node":
        from sdcomp.ir.ops import build

        x = build("input", name="x", rate="eval", shape=(1, self.rows, self.depth), dtype="f32")
        w = build("weight", name="w", file="model", shape=(self.columns, self.depth), dtype="f16")
        return build("matmul", x, w)

    def inputs(self) -> dict[str, Array]:
        return {"x": random_input(0, 1, self.rows, self.depth)}

    def weights(self) -> dict[str, Array]:
        return {"w": random_weight(self.columns, self.depth)}

    def calls(self) -> list[tuple[Array, ...]]:
        return [(self.inputs()["x"],)]

    def module(self) -> "torch.nn.Module":
        import torch

        layer = torch.nn.Linear(self.depth, self.columns, bias=False).requires_grad_(False)
        layer.weight.copy_(torch.from_numpy(self.weights()["w"]))
        return layer


CASES = tuple(
    MatmulCase(rows, depth, columns)
    for rows, width in ((4096, 320), (1024, 640), (256, 1280), (77, 768))
    for depth, columns in ((width, width), (width, 8 * width), (4 * width, width))
)
"""Projections and feed-forward layers of the UNet's three levels of transformers, and of the text encoder."""
