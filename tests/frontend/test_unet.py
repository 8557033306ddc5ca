"""The lowered UNet against diffusers' UNet2DConditionModel on the same random weights."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from diffusers import UNet2DConditionModel

from sdcomp.errors import FamilyError, UsageError
from sdcomp.frontend.config import UNetConfig
from sdcomp.frontend.unet import lower_unet
from sdcomp.ir.graph import Module, Node
from sdcomp.ir.interpret import interpret
from sdcomp.ir.verify import verify
from tests.frontend.oracle import OracleWeights, randomise, relative_error

TWO_LEVELS = UNetConfig(
    prefix="model.diffusion_model.",
    in_channels=4,
    out_channels=4,
    model_channels=32,
    channel_mult=(1, 2),
    res_blocks=1,
    transformer_depth=(1, 1),
    middle_depth=1,
    context_channels=24,
    heads=8,
    head_channels=None,
    linear_projection=False,
)
THREE_LEVELS = replace(
    TWO_LEVELS, channel_mult=(1, 2, 2), res_blocks=2, transformer_depth=(1, 1, 0), middle_depth=1
)
LINEAR = replace(
    TWO_LEVELS, transformer_depth=(1, 2), middle_depth=2, heads=None, head_channels=16, linear_projection=True
)
INPAINT = replace(TWO_LEVELS, in_channels=9, transformer_depth=(0, 1))
TOKENS = 5

RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
ENDS = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}
MIDDLE = {"0": "resnets.0", "1": "attentions.0", "2": "resnets.1"}


def translator(config: UNetConfig) -> Callable[[str], str]:
    """From latent diffusion's tensor names to diffusers'."""

    def translate(name: str) -> str:
        module, kind = name.rsplit(".", 1)
        if module in ENDS:
            return f"{ENDS[module]}.{kind}"
        side, *rest = module.split(".")
        if side == "middle_block":
            place, tail = f"mid_block.{MIDDLE[rest[0]]}", ".".join(rest[1:])
        else:
            place, tail = outer_block(side, int(rest[0]), rest[1], ".".join(rest[2:]))
        return ".".join(part for part in (place, RESNET.get(tail, tail), kind) if part)

    def outer_block(side: str, index: int, part: str, tail: str) -> tuple[str, str]:
        encoder = side == "input_blocks"
        level, position = divmod(index - encoder, config.res_blocks + 1)
        parent = f"{'down' if encoder else 'up'}_blocks.{level}"
        if tail in ("op", "conv"):
            return f"{parent}.{'down' if encoder else 'up'}samplers.0.conv", ""
        return f"{parent}.{'resnets' if part == '0' else 'attentions'}.{position}", tail

    return translate


def oracle_model(config: UNetConfig) -> UNet2DConditionModel:
    channels = [config.model_channels * multiplier for multiplier in config.channel_mult]
    attended = [depth > 0 for depth in config.transformer_depth]
    down = ["CrossAttnDownBlock2D" if attention else "DownBlock2D" for attention in attended]
    up = ["CrossAttnUpBlock2D" if attention else "UpBlock2D" for attention in reversed(attended)]
    heads = [config.head_count(width) for width in channels]
    return UNet2DConditionModel(
        in_channels=config.in_channels,
        out_channels=config.out_channels,
        block_out_channels=channels,
        down_block_types=down,
        up_block_types=up,
        layers_per_block=config.res_blocks,
        attention_head_dim=heads,
        cross_attention_dim=config.context_channels,
        use_linear_projection=config.linear_projection,
        transformer_layers_per_block=[
            *(depth or 1 for depth in config.transformer_depth[:-1]),
            config.middle_depth,
        ],
    )


def make(config: UNetConfig, dtype: torch.dtype) -> tuple[UNet2DConditionModel, OracleWeights]:
    torch.manual_seed(0)
    model = randomise(oracle_model(config), dtype)
    return model, OracleWeights(model, config.prefix, translator(config))


def errors(config: UNetConfig, dtype: torch.dtype, timestep: float, latent_batch: int = 2) -> float:
    """The relative error of one evaluation at 16x8 latents, two contexts, over all weights of the model."""
    model, weights = make(config, dtype)
    graph = lower_unet(config, weights.node, 2, latent_batch, 8, 16, TOKENS)
    verify(Module((graph,)))
    assert not weights.unused
    latents = torch.randn(latent_batch, config.in_channels, 8, 16, dtype=dtype)
    context = torch.randn(2, TOKENS, config.context_channels, dtype=dtype)
    time = torch.tensor([timestep], dtype=dtype)
    inputs = {"latents": latents.numpy(), "timestep": time.numpy(), "context": context.numpy()}
    found = interpret(graph, inputs, weights.read)["noise"]
    assert found.dtype == latents.numpy().dtype
    expected = model(latents.expand(2, -1, -1, -1), time, encoder_hidden_states=context).sample
    return relative_error(found, expected)


@pytest.mark.parametrize(
    "config", [TWO_LEVELS, THREE_LEVELS, LINEAR, INPAINT], ids=["two", "three", "linear", "inpaint"]
)
def test_f32_agrees_with_diffusers(config: UNetConfig) -> None:
    assert errors(config, torch.float32, timestep=431.5) <= 1e-4


@pytest.mark.parametrize("config", [TWO_LEVELS, THREE_LEVELS, LINEAR], ids=["two", "three", "linear"])
def test_f64_agrees_with_diffusers(config: UNetConfig) -> None:
    """At timestep 0, whose embedding is exact: diffusers computes it in f32 in any case."""
    assert errors(config, torch.float64, timestep=0.0) <= 1e-9


def test_one_latent_serves_both_contexts() -> None:
    assert errors(TWO_LEVELS, torch.float64, timestep=0.0, latent_batch=1) <= 1e-9


def stub_weights(name: str) -> Node:
    raise AssertionError(f"{name} was asked for before the size was checked")


@pytest.mark.parametrize(("height", "width"), [(8, 10), (6, 8), (0, 8)])
def test_size_that_levels_do_not_divide_is_refused(height: int, width: int) -> None:
    with pytest.raises(UsageError, match=rf"{width}x{height}.*multiples of 4"):
        lower_unet(THREE_LEVELS, stub_weights, 1, 1, height, width)


def test_latent_batch_that_does_not_fit_is_refused() -> None:
    with pytest.raises(UsageError, match="latent batch 2"):
        lower_unet(TWO_LEVELS, stub_weights, 4, 2, 8, 8)


def test_weight_of_wrong_shape_is_named() -> None:
    _, weights = make(TWO_LEVELS, torch.float32)
    wider = replace(TWO_LEVELS, context_channels=32)
    expected = r"attn2\.to_k\.weight: expected .* \[32, 32\], found f32\[32,24\]"
    with pytest.raises(FamilyError, match=expected):
        lower_unet(wider, weights.node, 1, 1, 8, 8)


def test_shared_work_is_built_once() -> None:
    _, weights = make(TWO_LEVELS, torch.float32)
    nodes = lower_unet(TWO_LEVELS, weights.node, 2, 1, 8, 8, TOKENS).nodes()
    assert [node.op for node in nodes].count("timestep_embedding") == 1
    names = [node.text("name") for node in nodes if node.op == "weight"]
    assert len(names) == len(set(names))


def test_guidance_broadcast_reads_the_input() -> None:
    _, weights = make(TWO_LEVELS, torch.float32)
    nodes = lower_unet(TWO_LEVELS, weights.node, 2, 1, 8, 8, TOKENS).nodes()
    (broadcast,) = (node for node in nodes if node.op == "broadcast_to")
    assert broadcast.operands[0].op == "input"


def test_convolutions_of_one_pixel_are_matmuls() -> None:
    _, weights = make(TWO_LEVELS, torch.float32)
    nodes = lower_unet(TWO_LEVELS, weights.node, 1, 1, 8, 8, TOKENS).nodes()
    assert {node.operands[1].shape[2:] for node in nodes if node.op == "conv2d"} == {(3, 3)}
