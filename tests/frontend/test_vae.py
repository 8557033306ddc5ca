"""The lowered autoencoder against diffusers' AutoencoderKL on the same random weights."""

import re
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from diffusers import AutoencoderKL

from sdcomp.errors import UsageError
from sdcomp.frontend.config import VaeConfig
from sdcomp.frontend.vae import lower_vae_decoder, lower_vae_encoder
from sdcomp.ir.graph import Module
from sdcomp.ir.interpret import interpret
from sdcomp.ir.verify import verify
from tests.frontend.oracle import OracleWeights, randomise, relative_error

TWO_LEVELS = VaeConfig(
    prefix="first_stage_model.",
    channels=32,
    channel_mult=(1, 2),
    encoder_res_blocks=1,
    decoder_res_blocks=2,
    latent_channels=4,
    image_channels=3,
    scaling_factor=0.18215,
    has_encoder=True,
)
THREE_LEVELS = replace(TWO_LEVELS, channel_mult=(1, 2, 2), encoder_res_blocks=2, decoder_res_blocks=3)
CONFIGS = pytest.mark.parametrize("config", [TWO_LEVELS, THREE_LEVELS], ids=["two", "three"])
PRECISIONS = pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-4), (torch.float64, 1e-9)])

ATTENTION = ("mid_block.attentions.0.to_",)
RULES = (
    (r"mid\.block_1", "mid_block.resnets.0"),
    (r"mid\.block_2", "mid_block.resnets.1"),
    (r"mid\.attn_1\.norm", "mid_block.attentions.0.group_norm"),
    (r"mid\.attn_1\.proj_out", "mid_block.attentions.0.to_out.0"),
    (r"mid\.attn_1\.([qkv])", r"mid_block.attentions.0.to_\1"),
    (r"down\.(\d+)\.block", r"down_blocks.\1.resnets"),
    (r"down\.(\d+)\.downsample", r"down_blocks.\1.downsamplers.0"),
    (r"nin_shortcut", "conv_shortcut"),
    (r"norm_out", "conv_norm_out"),
)


def translator(config: VaeConfig) -> Callable[[str], str]:
    """From latent diffusion's tensor names to diffusers'."""
    last = len(config.channel_mult) - 1

    def translate(name: str) -> str:
        for pattern, replacement in RULES:
            name = re.sub(pattern, replacement, name)
        name = re.sub(r"up\.(\d+)\.block", lambda m: f"up_blocks.{last - int(m[1])}.resnets", name)
        return re.sub(r"up\.(\d+)\.upsample", lambda m: f"up_blocks.{last - int(m[1])}.upsamplers.0", name)

    return translate


def make(
    config: VaeConfig, dtype: torch.dtype, attention: tuple[str, ...] = ATTENTION
) -> tuple[AutoencoderKL, OracleWeights]:
    torch.manual_seed(0)
    levels = len(config.channel_mult)
    model = AutoencoderKL(
        block_out_channels=[config.channels * multiplier for multiplier in config.channel_mult],
        down_block_types=["DownEncoderBlock2D"] * levels,
        up_block_types=["UpDecoderBlock2D"] * levels,
        layers_per_block=config.encoder_res_blocks,
        latent_channels=config.latent_channels,
    )
    model = randomise(model, dtype)
    return model, OracleWeights(model, config.prefix, translator(config), attention)


@CONFIGS
@PRECISIONS
def test_decoder_agrees_with_diffusers(config: VaeConfig, dtype: torch.dtype, bound: float) -> None:
    model, weights = make(config, dtype)
    graph = lower_vae_decoder(config, weights.node, 4, 6)
    verify(Module((graph,)))
    assert not {name for name in weights.unused if name.startswith(("decoder", "post"))}
    latents = torch.randn(1, config.latent_channels, 4, 6, dtype=dtype)
    found = interpret(graph, {"latents": latents.numpy()}, weights.read)["image"]
    assert relative_error(found, model.decode(latents).sample) <= bound


@CONFIGS
@PRECISIONS
def test_encoder_agrees_with_diffusers(config: VaeConfig, dtype: torch.dtype, bound: float) -> None:
    model, weights = make(config, dtype)
    graph = lower_vae_encoder(config, weights.node, 16, 24)
    verify(Module((graph,)))
    assert not {name for name in weights.unused if name.startswith(("encoder", "quant"))}
    image = torch.rand(1, 3, 16, 24, dtype=dtype) * 2 - 1
    found = interpret(graph, {"image": image.numpy()}, weights.read)
    expected = model.encode(image).latent_dist
    assert relative_error(found["mean"], expected.mean) <= bound
    assert relative_error(found["log_variance"], expected.logvar) <= bound


def test_attention_weights_may_be_matrices() -> None:
    model, weights = make(TWO_LEVELS, torch.float64, attention=())
    graph = lower_vae_decoder(TWO_LEVELS, weights.node, 4, 4)
    latents = torch.randn(1, 4, 4, 4, dtype=torch.float64)
    found = interpret(graph, {"latents": latents.numpy()}, weights.read)["image"]
    assert relative_error(found, model.decode(latents).sample) <= 1e-9


def test_image_size_that_levels_do_not_divide_is_refused() -> None:
    _, weights = make(THREE_LEVELS, torch.float32)
    with pytest.raises(UsageError, match=r"18x16.*multiples of 4"):
        lower_vae_encoder(THREE_LEVELS, weights.node, 16, 18)
