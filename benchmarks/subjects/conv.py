"""3x3 convolutions: the five layers of the Winograd paper that stable-diffusion.cpp's fork reports, and two
of upsampled maps.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.cases import Array, Case
from benchmarks.subjects.layer import LayerCase, random_input, random_weight

if TYPE_CHECKING:
    import torch

    from sdcomp.ir.graph import Node

_TO_NCHW = (0, 3, 1, 2)
_TO_NHWC = (0, 2, 3, 1)


@dataclass(frozen=True)
class ConvCase(LayerCase):
    """A convolution of padding 1 over a square map; ours reads and writes NHWC, as inside of a network.

    If `upsampled`, of a map of half the side, each pixel repeated. torch reads and writes NCHW, as its
    networks do, or with `channels_last` NHWC.
    """

    inputs_channels: int
    outputs_channels: int
    side: int
    stride: int = 1
    channels_last: bool = False
    upsampled: bool = False

    subject = "conv"

    @property
    def name(self) -> str:
        rest = f", stride {self.stride}" * (self.stride > 1) + ", upsampled" * self.upsampled
        return f"3x3 {self.inputs_channels} > {self.outputs_channels} at {self.side}x{self.side}{rest}"

    @property
    def _shape(self) -> tuple[int, int, int, int]:
        side = self.side // 2 if self.upsampled else self.side
        return 1, side, side, self.inputs_channels

    def node(self) -> "Node":
        from sdcomp.ir.ops import build

        x = build("input", name="x", rate="eval", shape=self._shape, dtype="f32")
        if self.upsampled:
            x = build("upsample_nearest", x, scale=2)
        kernel = (self.outputs_channels, self.inputs_channels, 3, 3)
        w = build("weight", name="w", file="model", shape=kernel, dtype="f16")
        return build("conv2d", x, w, stride=self.stride, padding=(1, 1, 1, 1))

    def inputs(self) -> dict[str, Array]:
        return {"x": random_input(0, *self._shape)}

    def weights(self) -> dict[str, Array]:
        return {"w": random_weight(self.outputs_channels, self.inputs_channels, 3, 3)}

    def calls(self) -> list[tuple[Array, ...]]:
        x = self.inputs()["x"]
        return [(x if self.channels_last else np.ascontiguousarray(x.transpose(_TO_NCHW)),)]

    def module(self) -> "torch.nn.Module":
        import torch

        channels = (self.inputs_channels, self.outputs_channels)
        layer = torch.nn.Conv2d(*channels, 3, self.stride, 1, bias=False).requires_grad_(False)
        layer.weight.copy_(torch.from_numpy(self.weights()["w"]))
        module = torch.nn.Sequential(torch.nn.Upsample(scale_factor=2), layer) if self.upsampled else layer
        return _channels_last(module) if self.channels_last else module

    def finish(self, outputs: list[Array]) -> list[Array]:
        return self.finish_ours(outputs) if self.channels_last else outputs

    def finish_ours(self, outputs: list[Array]) -> list[Array]:
        return [output.transpose(_TO_NCHW) for output in outputs]

    def forms(self, peer: str) -> list[tuple[str, Case]]:
        if peer != "torch":
            return [("", self)]
        return [("", self), ("channels last", replace(self, channels_last=True))]


def _channels_last(module: "torch.nn.Module") -> "torch.nn.Module":
    """The layer over NHWC arrays: both permutations are views."""
    import torch

    class ChannelsLast(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.module(x.permute(_TO_NCHW)).permute(_TO_NHWC)
            return y

    return ChannelsLast()


CASES = (
    ConvCase(640, 640, 32),
    ConvCase(1280, 1280, 16),
    ConvCase(2560, 1280, 16),
    ConvCase(320, 320, 64),
    ConvCase(640, 320, 64),
    ConvCase(1280, 1280, 32, upsampled=True),
    ConvCase(640, 640, 64, upsampled=True),
)
