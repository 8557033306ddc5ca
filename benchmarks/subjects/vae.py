"""The autoencoder: latents to an image, and an image to the distribution of its latents."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.cases import Array
from benchmarks.subjects.network import NetworkCase

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class DecodeCase(NetworkCase):
    """One decode."""

    subject = "vae"

    @property
    def name(self) -> str:
        return f"decode {self.pixels}"

    def programs(self) -> list[str]:
        return [f"vae_decoder@{self.pixels}"]

    def inputs(self) -> dict[str, Array]:
        config = self.config().vae
        width, height = (side // config.downscale for side in self.size)
        shape = (1, config.latent_channels, height, width)
        return {"latents": np.random.default_rng(0).standard_normal(shape, np.float32)}

    def module(self) -> "torch.nn.Module":
        from benchmarks.oracle import VaeDecoder

        return self.with_model(VaeDecoder)


@dataclass(frozen=True)
class EncodeCase(NetworkCase):
    """One encode."""

    subject = "vae"

    @property
    def name(self) -> str:
        return f"encode {self.pixels}"

    def programs(self) -> list[str]:
        return [f"vae_encoder@{self.pixels}"]

    def inputs(self) -> dict[str, Array]:
        width, height = self.size
        shape = (1, self.config().vae.image_channels, height, width)
        return {"image": np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)}

    def module(self) -> "torch.nn.Module":
        from benchmarks.oracle import VaeEncoder

        return self.with_model(VaeEncoder)
