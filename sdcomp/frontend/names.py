"""Canonical tensor names, and every other name that a Stable Diffusion 1.x file may give to the same tensor.

Canonical names are those of CompVis' checkpoints (`UNET`, `VAE` and `TEXT` are their prefixes). Aliases are
looked up, never substituted: a prefix of a fixed table says which network a tensor belongs to, and the names
of the diffusers library go through a dictionary made from the layers of a network of that depth, so an
unknown name stays unknown.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from sdcomp.frontend.config import TextEncoderConfig, UNetConfig, VaeConfig
from sdcomp.ir.types import Shape

UNET = "model.diffusion_model."
VAE = "first_stage_model."
TEXT = "cond_stage_model.transformer."

PREFIXES: tuple[tuple[str, str], ...] = (
    ("model.diffusion_model.", UNET),
    ("diffusion_model.", UNET),
    ("unet.", UNET),
    ("first_stage_model.", VAE),
    ("vae.", VAE),
    ("cond_stage_model.transformer.", TEXT),
    ("text_encoders.clip_l.transformer.", TEXT),
    ("text_encoder.", TEXT),
    ("te1.", TEXT),
    ("te.", TEXT),
    ("clip_l.transformer.", TEXT),
    ("clip_l.", TEXT),
    ("model.", UNET),
    ("", UNET),
    ("", VAE),
    ("", TEXT),
)
"""Prefixes that files use, and their networks; the first whose network knows the rest of the name wins."""

IGNORED = re.compile(
    r"""
    model_ema\..* | embedding_manager\..* | control_model\..* | (?:.*\.)?position_ids | (?:.*\.)?logit_scale
    | alphas_cumprod(?:_prev)? | betas | sqrt_.* | log_one_minus_.* | posterior_.* | lvlb_weights | logvar
    | scale_factor | denoiser\.sigmas | cond_stage_model\.(?:.*\.)?visual\..*
    | (?:first_stage_model\.|vae\.)?(?:loss|model_ema)\..* | v_pred | ztsnr | global_step
    """,
    re.VERBOSE,
)
"""Bookkeeping, moving averages and other models that travel in a checkpoint: no part of the networks."""


ROOTS = {
    UNET: re.compile(r"(?:time_embed|label_emb|input_blocks|middle_block|output_blocks|out)\..*"),
    VAE: re.compile(
        r"(?:(?:en|de)coder\.(?:conv_in|down|mid|up|norm_out|conv_out)|(?:post_)?quant_conv)\..*"
    ),
    TEXT: re.compile(r"(?:text_model\.)?(?:embeddings|encoder\.layers|final_layer_norm)\..*"),
}
"""How canonical names go on behind the prefix; old files leave out `text_model.`."""

DIFFUSERS_RESNET = re.compile(r"down_blocks\.([0-7])\.resnets\.([0-7])\..*")
DIFFUSERS_TRANSFORMER = re.compile(
    r"down_blocks\.([0-7])\.attentions\.[0-7]\.transformer_blocks\.([0-9]{1,2})\..*"
)
DIFFUSERS_MIDDLE = re.compile(r"mid_block\.attentions\.0\.transformer_blocks\.([0-9]{1,2})\..*")
DIFFUSERS_VAE_ENCODER = re.compile(r"encoder\.down_blocks\.([0-7])\.resnets\.([0-7])\..*")
DIFFUSERS_VAE_DECODER = re.compile(r"decoder\.up_blocks\.([0-7])\.resnets\.([0-7])\..*")
"""The indices that tell how deep a diffusers-named network is, bounded so that the dictionary stays small."""

OLD_VAE_ATTENTION = {".to_q": ".query", ".to_k": ".key", ".to_v": ".value", ".to_out.0": ".proj_attn"}


@dataclass(frozen=True)
class Layer:
    """A module with a `.weight` of this shape and, mostly, a `.bias` of shape `[shape[0]]`.

    `path` is the module's canonical name without the network's prefix, `alias` its name in diffusers. Linear
    weights are [out, in], convolutions [out, in, height, width].
    """

    path: str
    alias: str
    shape: Shape
    bias: bool = True

    def tensors(self) -> Iterator[tuple[str, Shape]]:
        """Names without prefix, and shapes, of the layer's tensors."""
        yield f"{self.path}.weight", self.shape
        if self.bias:
            yield f"{self.path}.bias", self.shape[:1]


def unet_layers(config: UNetConfig) -> Iterator[Layer]:
    """Every layer of latent diffusion's UNet (openaimodel.py), in order of execution."""
    width, embedding = config.model_channels, 4 * config.model_channels
    deepest = width * config.channel_mult[-1]
    yield Layer("time_embed.0", "time_embedding.linear_1", (embedding, width))
    yield Layer("time_embed.2", "time_embedding.linear_2", (embedding, embedding))
    yield _conv("input_blocks.0.0", "conv_in", config.in_channels, width)
    yield from _unet_encoder(config)
    yield from _unet_resnet("middle_block.0", "mid_block.resnets.0", deepest, deepest, embedding)
    yield from _transformer("middle_block.1", "mid_block.attentions.0", deepest, config.middle_depth, config)
    yield from _unet_resnet("middle_block.2", "mid_block.resnets.1", deepest, deepest, embedding)
    yield from _unet_decoder(config)
    yield _norm("out.0", "conv_norm_out", width)
    yield _conv("out.2", "conv_out", width, config.out_channels)


def vae_layers(config: VaeConfig) -> Iterator[Layer]:
    """Every layer of AutoencoderKL (latent diffusion's model.py): the encoder only if the file has one."""
    latent = config.latent_channels
    if config.has_encoder:
        yield from _vae_encoder(config)
        yield _conv("quant_conv", "quant_conv", 2 * latent, 2 * latent, size=1)
    yield _conv("post_quant_conv", "post_quant_conv", latent, latent, size=1)
    yield from _vae_decoder(config)


def text_layers(config: TextEncoderConfig) -> Iterator[Layer]:
    """Every layer of transformers' CLIPTextModel; canonical and diffusers names are the same."""
    width = config.width
    shapes: dict[str, Shape] = {
        "embeddings.token_embedding": (config.vocabulary, width),
        "embeddings.position_embedding": (config.positions, width),
    }
    for index in range(config.layers):
        layer = f"encoder.layers.{index}"
        shapes |= {f"{layer}.self_attn.{name}_proj": (width, width) for name in ("q", "k", "v", "out")}
        shapes |= {f"{layer}.layer_norm1": (width,), f"{layer}.layer_norm2": (width,)}
        shapes[f"{layer}.mlp.fc1"] = (config.mlp_width, width)
        shapes[f"{layer}.mlp.fc2"] = (width, config.mlp_width)
    shapes["final_layer_norm"] = (width,)
    for name, shape in shapes.items():
        path = f"text_model.{name}"
        yield Layer(path, path, shape, bias=not name.startswith("embeddings."))


def unet_module_aliases(config: UNetConfig) -> dict[str, str]:
    """Canonical path of every UNet module (no prefix, no `.weight`) to its path in diffusers."""
    return {layer.path: layer.alias for layer in unet_layers(config)}


def text_module_names(config: TextEncoderConfig) -> list[str]:
    """Path of every module of the text encoder, such as `text_model.encoder.layers.0.self_attn.q_proj`."""
    return [layer.path for layer in text_layers(config)]


def _conv(path: str, alias: str, inputs: int, outputs: int, size: int = 3) -> Layer:
    return Layer(path, alias, (outputs, inputs, size, size))


def _norm(path: str, alias: str, channels: int) -> Layer:
    return Layer(path, alias, (channels,))


def _unet_encoder(config: UNetConfig) -> Iterator[Layer]:
    channels, embedding, index = config.model_channels, 4 * config.model_channels, 1
    for level, multiplier in enumerate(config.channel_mult):
        alias, outputs = f"down_blocks.{level}", config.model_channels * multiplier
        for block in range(config.res_blocks):
            path, depth = f"input_blocks.{index}", config.transformer_depth[level]
            yield from _unet_resnet(f"{path}.0", f"{alias}.resnets.{block}", channels, outputs, embedding)
            yield from _transformer(f"{path}.1", f"{alias}.attentions.{block}", outputs, depth, config)
            channels, index = outputs, index + 1
        if level + 1 < len(config.channel_mult):
            yield _conv(f"input_blocks.{index}.0.op", f"{alias}.downsamplers.0.conv", outputs, outputs)
            index += 1


def _unet_decoder(config: UNetConfig) -> Iterator[Layer]:
    skips, per_level, embedding = _skip_channels(config), config.res_blocks + 1, 4 * config.model_channels
    channels = skips[-1]
    for step, level in enumerate(reversed(range(len(config.channel_mult)))):
        outputs = config.model_channels * config.channel_mult[level]
        depth = config.transformer_depth[level]
        for block in range(per_level):
            path, alias = f"output_blocks.{step * per_level + block}", f"up_blocks.{step}"
            inputs = channels + skips.pop()
            yield from _unet_resnet(f"{path}.0", f"{alias}.resnets.{block}", inputs, outputs, embedding)
            yield from _transformer(f"{path}.1", f"{alias}.attentions.{block}", outputs, depth, config)
            channels = outputs
        if level > 0:
            upsampler = 2 if depth else 1
            yield _conv(f"{path}.{upsampler}.conv", f"{alias}.upsamplers.0.conv", outputs, outputs)


def _skip_channels(config: UNetConfig) -> list[int]:
    """Channels of every encoder output that the decoder concatenates, in encoder order."""
    skips = [config.model_channels]
    for level, multiplier in enumerate(config.channel_mult):
        downsampler = level + 1 < len(config.channel_mult)
        skips += [config.model_channels * multiplier] * (config.res_blocks + downsampler)
    return skips


def _unet_resnet(path: str, alias: str, inputs: int, outputs: int, embedding: int) -> Iterator[Layer]:
    yield _norm(f"{path}.in_layers.0", f"{alias}.norm1", inputs)
    yield _conv(f"{path}.in_layers.2", f"{alias}.conv1", inputs, outputs)
    yield Layer(f"{path}.emb_layers.1", f"{alias}.time_emb_proj", (outputs, embedding))
    yield _norm(f"{path}.out_layers.0", f"{alias}.norm2", outputs)
    yield _conv(f"{path}.out_layers.3", f"{alias}.conv2", outputs, outputs)
    if inputs != outputs:
        yield _conv(f"{path}.skip_connection", f"{alias}.conv_shortcut", inputs, outputs, size=1)


def _transformer(path: str, alias: str, channels: int, depth: int, config: UNetConfig) -> Iterator[Layer]:
    if depth == 0:
        return
    projection: Shape = (channels, channels) if config.linear_projection else (channels, channels, 1, 1)
    yield _norm(f"{path}.norm", f"{alias}.norm", channels)
    yield Layer(f"{path}.proj_in", f"{alias}.proj_in", projection)
    for index in range(depth):
        block = f"transformer_blocks.{index}"
        for name, shape, bias in _transformer_block(channels, config.context_channels):
            yield Layer(f"{path}.{block}.{name}", f"{alias}.{block}.{name}", shape, bias)
    yield Layer(f"{path}.proj_out", f"{alias}.proj_out", projection)


def _transformer_block(channels: int, context: int) -> Iterator[tuple[str, Shape, bool]]:
    for norm, name, keys in (("norm1", "attn1", channels), ("norm2", "attn2", context)):
        yield norm, (channels,), True
        yield f"{name}.to_q", (channels, channels), False
        yield f"{name}.to_k", (channels, keys), False
        yield f"{name}.to_v", (channels, keys), False
        yield f"{name}.to_out.0", (channels, channels), True
    yield "norm3", (channels,), True
    yield "ff.net.0.proj", (8 * channels, channels), True
    yield "ff.net.2", (channels, 4 * channels), True


def _vae_encoder(config: VaeConfig) -> Iterator[Layer]:
    channels, last = config.channels, len(config.channel_mult) - 1
    yield _conv("encoder.conv_in", "encoder.conv_in", config.image_channels, channels)
    for level, multiplier in enumerate(config.channel_mult):
        path, alias = f"encoder.down.{level}", f"encoder.down_blocks.{level}"
        outputs = config.channels * multiplier
        for block in range(config.encoder_res_blocks):
            yield from _vae_resnet(f"{path}.block.{block}", f"{alias}.resnets.{block}", channels, outputs)
            channels = outputs
        if level < last:
            yield _conv(f"{path}.downsample.conv", f"{alias}.downsamplers.0.conv", outputs, outputs)
    yield from _vae_middle("encoder", channels)
    yield _norm("encoder.norm_out", "encoder.conv_norm_out", channels)
    yield _conv("encoder.conv_out", "encoder.conv_out", channels, 2 * config.latent_channels)


def _vae_decoder(config: VaeConfig) -> Iterator[Layer]:
    last = len(config.channel_mult) - 1
    channels = config.channels * config.channel_mult[last]
    yield _conv("decoder.conv_in", "decoder.conv_in", config.latent_channels, channels)
    yield from _vae_middle("decoder", channels)
    for level in reversed(range(last + 1)):
        path, alias = f"decoder.up.{level}", f"decoder.up_blocks.{last - level}"
        outputs = config.channels * config.channel_mult[level]
        for block in range(config.decoder_res_blocks):
            yield from _vae_resnet(f"{path}.block.{block}", f"{alias}.resnets.{block}", channels, outputs)
            channels = outputs
        if level > 0:
            yield _conv(f"{path}.upsample.conv", f"{alias}.upsamplers.0.conv", outputs, outputs)
    yield _norm("decoder.norm_out", "decoder.conv_norm_out", channels)
    yield _conv("decoder.conv_out", "decoder.conv_out", channels, config.image_channels)


def _vae_middle(side: str, channels: int) -> Iterator[Layer]:
    path, alias = f"{side}.mid.attn_1", f"{side}.mid_block.attentions.0"
    yield from _vae_resnet(f"{side}.mid.block_1", f"{side}.mid_block.resnets.0", channels, channels)
    yield _norm(f"{path}.norm", f"{alias}.group_norm", channels)
    for name, module in (("q", "to_q"), ("k", "to_k"), ("v", "to_v"), ("proj_out", "to_out.0")):
        yield _conv(f"{path}.{name}", f"{alias}.{module}", channels, channels, size=1)
    yield from _vae_resnet(f"{side}.mid.block_2", f"{side}.mid_block.resnets.1", channels, channels)


def _vae_resnet(path: str, alias: str, inputs: int, outputs: int) -> Iterator[Layer]:
    yield _norm(f"{path}.norm1", f"{alias}.norm1", inputs)
    yield _conv(f"{path}.conv1", f"{alias}.conv1", inputs, outputs)
    yield _norm(f"{path}.norm2", f"{alias}.norm2", outputs)
    yield _conv(f"{path}.conv2", f"{alias}.conv2", outputs, outputs)
    if inputs != outputs:
        yield _conv(f"{path}.nin_shortcut", f"{alias}.conv_shortcut", inputs, outputs, size=1)


@dataclass(frozen=True)
class ResolvedNames:
    """`stored` maps canonical to stored names; `clashes` are (canonical, first stored, second stored)."""

    stored: dict[str, str]
    ignored: tuple[str, ...]
    unknown: tuple[str, ...]
    clashes: tuple[tuple[str, str, str], ...]


def resolve_names(names: Iterable[str]) -> ResolvedNames:
    """Give every tensor of a file its canonical name, where it has one."""
    names = list(names)
    aliases = {UNET: _unet_aliases(_rests(names, UNET)), VAE: _vae_aliases(_rests(names, VAE)), TEXT: {}}
    stored: dict[str, str] = {}
    ignored, unknown, clashes = [], [], []
    for name in names:
        if IGNORED.fullmatch(name):
            ignored.append(name)
            continue
        canonical = _canonical_name(name, aliases)
        if canonical is None:
            unknown.append(name)
        elif canonical in stored:
            clashes.append((canonical, stored[canonical], name))
        else:
            stored[canonical] = name
    return ResolvedNames(stored, tuple(ignored), tuple(unknown), tuple(clashes))


def _canonical_name(name: str, aliases: Mapping[str, Mapping[str, str]]) -> str | None:
    for prefix, network in PREFIXES:
        if not name.startswith(prefix):
            continue
        rest = name[len(prefix) :]
        local = rest if ROOTS[network].fullmatch(rest) else aliases[network].get(rest)
        if local is None:
            continue
        return network + (f"text_model.{local.removeprefix('text_model.')}" if network == TEXT else local)
    return None


def _rests(names: Iterable[str], network: str) -> list[str]:
    prefixes = [prefix for prefix, target in PREFIXES if target == network]
    return [name[len(prefix) :] for name in names for prefix in prefixes if name.startswith(prefix)]


def _unet_aliases(names: list[str]) -> dict[str, str]:
    """diffusers' name to canonical name of every tensor of a UNet as deep as these names are."""
    resnets = _indices(DIFFUSERS_RESNET, names)
    if not resnets:
        return {}
    levels, res_blocks = _counts(resnets)
    transformers = _indices(DIFFUSERS_TRANSFORMER, names)
    depths = [[index for level, index in transformers if level == wanted] for wanted in range(levels)]
    skeleton = UNetConfig(
        prefix=UNET, in_channels=1, out_channels=1, model_channels=1, channel_mult=_all_different(levels),
        res_blocks=res_blocks, transformer_depth=tuple(1 + max(depth, default=-1) for depth in depths),
        middle_depth=1 + max((index for (index,) in _indices(DIFFUSERS_MIDDLE, names)), default=-1),
        context_channels=1, heads=1, head_channels=None, linear_projection=True,
    )  # fmt: skip
    return _tensor_aliases(unet_layers(skeleton))


def _vae_aliases(names: list[str]) -> dict[str, str]:
    """diffusers' names (old and new) to canonical name of every tensor of a VAE this deep."""
    encoder, decoder = _indices(DIFFUSERS_VAE_ENCODER, names), _indices(DIFFUSERS_VAE_DECODER, names)
    if not encoder + decoder:
        return {}
    skeleton = VaeConfig(
        prefix=VAE, channels=1, channel_mult=_all_different(_counts(encoder + decoder)[0]),
        encoder_res_blocks=_counts(encoder)[1], decoder_res_blocks=_counts(decoder)[1], latent_channels=1,
        image_channels=1, scaling_factor=1.0, has_encoder=True,
    )  # fmt: skip
    layers = list(vae_layers(skeleton))
    old = [
        replace(layer, alias=layer.alias.removesuffix(new) + former)
        for layer in layers
        for new, former in OLD_VAE_ATTENTION.items()
        if layer.alias.endswith(new)
    ]
    return _tensor_aliases(layers + old)


def _indices(pattern: re.Pattern[str], names: Iterable[str]) -> list[tuple[int, ...]]:
    matches = (pattern.fullmatch(name) for name in names)
    return [tuple(int(index) for index in match.groups()) for match in matches if match]


def _counts(indices: Iterable[tuple[int, ...]]) -> tuple[int, int]:
    pairs = list(indices)
    return 1 + max((pair[0] for pair in pairs), default=-1), 1 + max((pair[1] for pair in pairs), default=-1)


def _all_different(levels: int) -> tuple[int, ...]:
    """Multipliers that change at every level, so that every possible shortcut convolution has an alias."""
    return tuple(range(2, levels + 2))


def _tensor_aliases(layers: Iterable[Layer]) -> dict[str, str]:
    return {layer.alias + end: layer.path + end for layer in layers for end in (".weight", ".bias")}
