"""Lowering of latent diffusion's UNet (Rombach et al. 2022; openaimodel.py, attention.py) to a graph."""

from itertools import count

from sdcomp.errors import UsageError
from sdcomp.frontend.builder import (
    Builder,
    Lookup,
    program_input,
    require_multiple,
    to_nchw,
    to_nhwc,
    to_tokens,
)
from sdcomp.frontend.config import UNetConfig
from sdcomp.ir.graph import Graph, Node
from sdcomp.ir.ops import build

MAX_PERIOD = 10000.0
RES_BLOCK_EPS = 1e-5
TRANSFORMER_EPS = 1e-6


def latent_multiple(config: UNetConfig) -> int:
    """What both sides of the latents must divide by: every level but the last halves them."""
    return 1 << (len(config.channel_mult) - 1)


def lower_unet(
    config: UNetConfig,
    weights: Lookup,
    batch: int,
    latent_batch: int,
    height: int,
    width: int,
    tokens: int = 77,
    name: str = "unet",
) -> Graph:
    """The graph of one evaluation.

    Inputs: `latents` [latent_batch, in_channels, height, width] at rate eval, `timestep` [1] at rate step
    (may be fractional), `context` [batch, tokens, context_channels] at rate prompt; all f32. Output:
    `noise` [batch, out_channels, height, width]. `height` and `width` are in latent pixels. One latent
    serves a whole batch of contexts (classifier-free guidance) when `latent_batch` is 1.

    Raises UsageError for a size or batch that the network cannot have, FamilyError for a weight that does not
    fit.
    """
    require_multiple("latent size", latent_multiple(config), width, height)
    if latent_batch not in (1, batch):
        raise UsageError(f"latent batch {latent_batch}: must be 1 or the batch of the contexts, {batch}")
    latents = program_input("latents", "eval", (latent_batch, config.in_channels, height, width))
    timestep = program_input("timestep", "step", (1,))
    context = program_input("context", "prompt", (batch, tokens, config.context_channels))
    if latent_batch < batch:
        latents = build("broadcast_to", latents, shape=(batch, *latents.shape[1:]))
    network = Builder(config.prefix, weights, config.norm_groups)
    lowering = _Lowering(config, network, timestep, context)
    return Graph(name, {"noise": to_nchw(lowering.noise(to_nhwc(latents)))})


class _Lowering:
    """One pass over the network, front to back. Methods take and return maps [N,H,W,C]."""

    def __init__(self, config: UNetConfig, network: Builder, timestep: Node, context: Node) -> None:
        self._config = config
        self._network = network
        self._context = context
        self._embedding = build("silu", self._time_embedding(timestep))

    def noise(self, latents: Node) -> Node:
        skips = self._encoder(latents)
        x = self._decoder(self._middle(skips[-1]), skips)
        x = build("silu", self._network.group_norm(x, "out.0", RES_BLOCK_EPS))
        return self._network.conv(x, "out.2", self._config.out_channels)

    def _time_embedding(self, timestep: Node) -> Node:
        channels = self._config.model_channels
        x = build("timestep_embedding", timestep, channels=channels, max_period=MAX_PERIOD)
        x = self._network.linear(x, "time_embed.0", 4 * channels)
        return self._network.linear(build("silu", x), "time_embed.2", 4 * channels)

    def _encoder(self, latents: Node) -> list[Node]:
        """What every input block leaves, in order: the decoder reads all of them, last first."""
        config, index = self._config, count(1)
        skips = [self._network.conv(latents, "input_blocks.0.0", config.model_channels)]
        for level, multiplier in enumerate(config.channel_mult):
            channels = config.model_channels * multiplier
            for _ in range(config.res_blocks):
                block = self._network.at(f"input_blocks.{next(index)}")
                skips.append(self._block(block, skips[-1], channels, config.transformer_depth[level]))
            if level + 1 < len(config.channel_mult):
                down = f"input_blocks.{next(index)}.0.op"
                skips.append(self._network.conv(skips[-1], down, channels, stride=2))
        return skips

    def _middle(self, x: Node) -> Node:
        block, channels = self._network.at("middle_block"), x.shape[3]
        x = self._block(block, x, channels, self._config.middle_depth)
        return self._res_block(block.at("2"), x, channels)

    def _decoder(self, x: Node, skips: list[Node]) -> Node:
        config, index = self._config, count()
        for level in reversed(range(len(config.channel_mult))):
            channels = config.model_channels * config.channel_mult[level]
            depth = config.transformer_depth[level]
            for _ in range(config.res_blocks + 1):
                block = self._network.at(f"output_blocks.{next(index)}")
                x = self._block(block, build("concat", x, skips.pop(), axis=3), channels, depth)
            if level > 0:
                x = build("upsample_nearest", x, scale=2)
                x = block.conv(x, "2.conv" if depth else "1.conv", channels)
        return x

    def _block(self, block: Builder, x: Node, channels: int, depth: int) -> Node:
        x = self._res_block(block.at("0"), x, channels)
        return self._transformer(block.at("1"), x, depth) if depth else x

    def _res_block(self, block: Builder, x: Node, channels: int) -> Node:
        hidden = build("silu", block.group_norm(x, "in_layers.0", RES_BLOCK_EPS))
        hidden = block.conv(hidden, "in_layers.2", channels)
        embedding = block.linear(self._embedding, "emb_layers.1", channels)
        hidden = build("add", hidden, build("reshape", embedding, shape=(1, 1, 1, channels)))
        hidden = build("silu", block.group_norm(hidden, "out_layers.0", RES_BLOCK_EPS))
        hidden = block.conv(hidden, "out_layers.3", channels)
        shortcut = x if x.shape[3] == channels else block.linear(x, "skip_connection", channels)
        return build("add", hidden, shortcut)

    def _transformer(self, block: Builder, x: Node, depth: int) -> Node:
        channels = x.shape[3]
        hidden = block.linear(block.group_norm(x, "norm", TRANSFORMER_EPS), "proj_in", channels)
        hidden = to_tokens(hidden)
        for index in range(depth):
            hidden = self._transformer_block(block.at(f"transformer_blocks.{index}"), hidden)
        hidden = block.linear(build("reshape", hidden, shape=x.shape), "proj_out", channels)
        return build("add", hidden, x)

    def _transformer_block(self, block: Builder, x: Node) -> Node:
        normed = block.layer_norm(x, "norm1")
        x = build("add", self._attention(block.at("attn1"), normed, normed), x)
        x = build("add", self._attention(block.at("attn2"), block.layer_norm(x, "norm2"), self._context), x)
        return build("add", _feed_forward(block.at("ff.net"), block.layer_norm(x, "norm3")), x)

    def _attention(self, block: Builder, x: Node, source: Node) -> Node:
        channels = x.shape[2]
        query = block.linear(x, "to_q", channels, bias=False)
        key = block.linear(source, "to_k", channels, bias=False)
        value = block.linear(source, "to_v", channels, bias=False)
        heads = self._config.head_count(channels)
        attended = build("attention", query, key, value, heads=heads, causal=False)
        return block.linear(attended, "to_out.0", channels)


def _feed_forward(block: Builder, x: Node) -> Node:
    """GEGLU (Shazeer 2020): the first half of the projection is the value, the second the gate."""
    channels = x.shape[2]
    projected = block.linear(x, "0.proj", 8 * channels)
    value = build("slice", projected, axis=2, start=0, stop=4 * channels)
    gate = build("slice", projected, axis=2, start=4 * channels, stop=8 * channels)
    return block.linear(build("mul", value, build("gelu", gate)), "2", channels)
