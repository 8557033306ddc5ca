"""What the tensors of a checkpoint say about its networks: plain data, filled by `family.py`, read by the
lowering files.
"""

from dataclasses import dataclass

NORM_GROUPS = 32
"""Groups of every group normalisation of latent diffusion, whatever the number of channels."""


@dataclass(frozen=True)
class UNetConfig:
    """Latent diffusion's UNet (Rombach et al. 2022, openaimodel.py). Tuples have one entry per level, finest
    first.

    Exactly one of `heads` (fixed count, SD1) and `head_channels` (SD2, SDXL) is set.
    """

    prefix: str
    in_channels: int
    out_channels: int
    model_channels: int
    channel_mult: tuple[int, ...]
    res_blocks: int
    transformer_depth: tuple[int, ...]
    middle_depth: int
    context_channels: int
    heads: int | None
    head_channels: int | None
    linear_projection: bool
    norm_groups: int = NORM_GROUPS

    def head_count(self, channels: int) -> int:
        """Attention heads of a transformer block of this width."""
        return self.heads if self.heads is not None else channels // (self.head_channels or channels)


@dataclass(frozen=True)
class TextEncoderConfig:
    """A CLIP text transformer (Radford et al. 2021) in transformers' naming."""

    prefix: str
    width: int
    layers: int
    heads: int
    mlp_width: int
    activation: str
    vocabulary: int
    positions: int


@dataclass(frozen=True)
class VaeConfig:
    """AutoencoderKL (Rombach et al. 2022). `channel_mult` is finest first; `latents = scaling_factor * z`."""

    prefix: str
    channels: int
    channel_mult: tuple[int, ...]
    encoder_res_blocks: int
    decoder_res_blocks: int
    latent_channels: int
    image_channels: int
    scaling_factor: float
    has_encoder: bool
    norm_groups: int = NORM_GROUPS

    @property
    def downscale(self) -> int:
        """Image pixels per latent pixel, along one side."""
        return 1 << (len(self.channel_mult) - 1)


@dataclass(frozen=True)
class ModelConfig:
    """Everything that lowering needs. `notes` are facts the tensors could not tell: what was assumed, and
    why.
    """

    family: str
    prediction: str
    unet: UNetConfig
    text: TextEncoderConfig
    vae: VaeConfig
    notes: tuple[str, ...] = ()
