"""The UNet: one evaluation of one latent, for one context or for the two of classifier-free guidance."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.cases import Array, Case
from benchmarks.subjects.network import NetworkCase

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class UNetCase(NetworkCase):
    """Latents, timestep and `batch` contexts to noise.

    All three programs count, though `unet.prompt` runs once per picture: with `hoisted`, it runs before.
    `separately`: peers take the contexts one after the other.
    """

    batch: int
    hoisted: bool = False
    separately: bool = False

    subject = "unet"

    @property
    def name(self) -> str:
        return f"{self.pixels}x{self.batch}" + ", prompt hoisted" * self.hoisted

    def programs(self) -> list[str]:
        kinds = ["unet.step", "unet"] if self.hoisted else ["unet.prompt", "unet.step", "unet"]
        return [f"{kind}@{self.pixels}x{self.batch}" for kind in kinds]

    def before(self) -> list[str]:
        return [f"unet.prompt@{self.pixels}x{self.batch}"] if self.hoisted else []

    def inputs(self) -> dict[str, Array]:
        config = self.config()
        generator = np.random.default_rng(0)
        width, height = (side // config.vae.downscale for side in self.size)
        tokens, channels = config.text.positions, config.unet.context_channels
        latents = generator.standard_normal((1, config.unet.in_channels, height, width), np.float32)
        context = generator.standard_normal((self.batch, tokens, channels), np.float32)
        return {"latents": latents, "timestep": np.array([500.0], np.float32), "context": context}

    def calls(self) -> list[tuple[Array, ...]]:
        inputs = self.inputs()
        contexts = np.split(inputs["context"], self.batch if self.separately else 1)
        return [(inputs["latents"], inputs["timestep"], context) for context in contexts]

    def module(self) -> "torch.nn.Module":
        from benchmarks.oracle import UNet

        return self.with_model(UNet)

    def forms(self, peer: str) -> list[tuple[str, Case]]:
        if self.batch == 1:
            return [("", self)]
        return [("", self), (f"{self.batch} evaluations", replace(self, separately=True))]
