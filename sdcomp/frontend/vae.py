"""Lowering of AutoencoderKL (Rombach et al. 2022; model.py) to a decoder and an encoder."""

from sdcomp.frontend.builder import (
    Builder,
    Lookup,
    program_input,
    require_multiple,
    to_nchw,
    to_nhwc,
    to_tokens,
)
from sdcomp.frontend.config import VaeConfig
from sdcomp.ir.graph import Graph, Node
from sdcomp.ir.ops import build

EPS = 1e-6
DOWNSAMPLE_PADDING = (0, 0, 1, 1)


def lower_vae_decoder(
    config: VaeConfig, weights: Lookup, height: int, width: int, name: str = "vae_decoder", batch: int = 1
) -> Graph:
    """The graph from latents to an image.

    Input: `latents` [batch, latent_channels, height, width] f32 at rate eval: raw z, already divided by the
    scaling factor; sizes in latent pixels. Output: `image` [batch, image_channels, downscale height,
    downscale width], about -1 to 1, not clamped.

    Raises UsageError for an empty size, FamilyError for a weight that does not fit.
    """
    require_multiple("latent size", 1, width, height)
    network = Builder(config.prefix, weights, config.norm_groups)
    latents = program_input("latents", "eval", (batch, config.latent_channels, height, width))
    x = network.linear(to_nhwc(latents), "post_quant_conv", config.latent_channels)
    return Graph(name, {"image": to_nchw(_decoder(config, network.at("decoder"), x))})


def lower_vae_encoder(
    config: VaeConfig, weights: Lookup, height: int, width: int, name: str = "vae_encoder", batch: int = 1
) -> Graph:
    """The graph from an image to the distribution of its latents.

    Input: `image` [batch, image_channels, height, width] f32, -1 to 1, at rate eval; sizes in image pixels.
    Outputs: `mean` and `log_variance` [batch, latent_channels, height / downscale, width / downscale], the
    log variance not clamped; neither multiplied by the scaling factor.

    Raises UsageError for a size that `downscale` does not divide, FamilyError for a weight that does not fit.
    """
    require_multiple("image size", config.downscale, width, height)
    network = Builder(config.prefix, weights, config.norm_groups)
    image = program_input("image", "eval", (batch, config.image_channels, height, width))
    moments = _encoder(config, network.at("encoder"), to_nhwc(image))
    channels = config.latent_channels
    moments = network.linear(moments, "quant_conv", 2 * channels)
    mean = build("slice", moments, axis=3, start=0, stop=channels)
    log_variance = build("slice", moments, axis=3, start=channels, stop=2 * channels)
    return Graph(name, {"mean": to_nchw(mean), "log_variance": to_nchw(log_variance)})


def _decoder(config: VaeConfig, decoder: Builder, x: Node) -> Node:
    x = decoder.conv(x, "conv_in", config.channels * config.channel_mult[-1])
    x = _middle(decoder.at("mid"), x)
    for level in reversed(range(len(config.channel_mult))):
        stage = decoder.at(f"up.{level}")
        channels = config.channels * config.channel_mult[level]
        for index in range(config.decoder_res_blocks):
            x = _res_block(stage.at(f"block.{index}"), x, channels)
        if level > 0:
            x = stage.conv(build("upsample_nearest", x, scale=2), "upsample.conv", channels)
    return _head(decoder, x, config.image_channels)


def _encoder(config: VaeConfig, encoder: Builder, x: Node) -> Node:
    x = encoder.conv(x, "conv_in", config.channels)
    for level, multiplier in enumerate(config.channel_mult):
        stage = encoder.at(f"down.{level}")
        channels = config.channels * multiplier
        for index in range(config.encoder_res_blocks):
            x = _res_block(stage.at(f"block.{index}"), x, channels)
        if level + 1 < len(config.channel_mult):
            x = stage.conv(x, "downsample.conv", channels, stride=2, padding=DOWNSAMPLE_PADDING)
    return _head(encoder, _middle(encoder.at("mid"), x), 2 * config.latent_channels)


def _middle(middle: Builder, x: Node) -> Node:
    channels = x.shape[3]
    x = _res_block(middle.at("block_1"), x, channels)
    x = _attention(middle.at("attn_1"), x)
    return _res_block(middle.at("block_2"), x, channels)


def _head(network: Builder, x: Node, channels: int) -> Node:
    return network.conv(build("silu", network.group_norm(x, "norm_out", EPS)), "conv_out", channels)


def _res_block(block: Builder, x: Node, channels: int) -> Node:
    hidden = block.conv(build("silu", block.group_norm(x, "norm1", EPS)), "conv1", channels)
    hidden = block.conv(build("silu", block.group_norm(hidden, "norm2", EPS)), "conv2", channels)
    shortcut = x if x.shape[3] == channels else block.linear(x, "nin_shortcut", channels)
    return build("add", hidden, shortcut)


def _attention(block: Builder, x: Node) -> Node:
    """One head over all channels; every pixel is a token."""
    channels = x.shape[3]
    tokens = to_tokens(block.group_norm(x, "norm", EPS))
    query, key, value = (block.linear(tokens, name, channels) for name in ("q", "k", "v"))
    attended = build("attention", query, key, value, heads=1, causal=False)
    hidden = block.linear(build("reshape", attended, shape=x.shape), "proj_out", channels)
    return build("add", hidden, x)
