"""The family of a checkpoint, and every hyper-parameter of its networks, counted from names and shapes.

What tensors cannot tell comes from an option, else from the file's metadata, else from the rule of the
family, and is reported in `ModelConfig.notes`. This version knows Stable Diffusion 1.x, of any width and
depth.
"""

import math
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from sdcomp.errors import FamilyError
from sdcomp.frontend.checkpoint import Checkpoint
from sdcomp.frontend.config import ModelConfig, TextEncoderConfig, UNetConfig, VaeConfig
from sdcomp.frontend.names import TEXT, UNET, VAE, text_layers, unet_layers, vae_layers
from sdcomp.frontend.safetensors import quoted
from sdcomp.frontend.settings import SD1_HEADS, SD1_SCALING_FACTOR, Settings
from sdcomp.ir.types import Shape

NETWORKS = {"unet": UNET, "text encoder": TEXT, "vae": VAE}

CLIP_VOCABULARY = 49408

ADAPTER = (
    r"lora_|lycoris_|oft_(?:unet|te)_|(?:.*\.)?base_model\.model\."
    r"|.*(?:[._]lora(?:\.|_up|_down|_A|_B|_linear_layer)|\.(?:lokr_w[12]|hada_w[12]|diff(?:_b)?$|w_norm$|oft_|boft_))"
)

FOREIGN_NAMES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), description)
    for pattern, description in (
        (ADAPTER, "an adapter, not a checkpoint"),
        (r"conditioner\.embedders\.1\.|text_encoder[_.]2\.|te2\.|clip_g\.", "Stable Diffusion XL"),
        (r"conditioner\.embedders\.0\.model\.", "the refiner of Stable Diffusion XL, or version 2.x"),
        (r"cond_stage_model\.model\.|clip_h\.", "Stable Diffusion 2.x (an OpenCLIP text encoder)"),
        (r"(?:model\.diffusion_model\.)?(?:joint|double|single)_blocks\.", "a diffusion transformer"),
        (r"edm_mean|edm_std|edm_vpred\.", "a model with EDM noise levels"),
    )
)
FOREIGN_CONTEXTS = {
    1024: "Stable Diffusion 2.x",
    1280: "the refiner of Stable Diffusion XL",
    2048: "Stable Diffusion XL",
}
FOREIGN_LABELS = {2816: "Stable Diffusion XL", 2560: "the refiner of Stable Diffusion XL"}
FOREIGN_INPUTS = {9: "an inpainting model", 8: "an image-editing model", 5: "a depth model"}


def detect(checkpoint: Checkpoint, prediction: str | None = None, heads: int | None = None) -> ModelConfig:
    """The configuration of every network of a complete Stable Diffusion 1.x checkpoint, all tensors checked.

    `prediction` ("eps" or "v") and `heads` (attention heads of the UNet) override what file and family say.
    Raises FamilyError if the checkpoint is of another family, incomplete, or of the wrong shapes, UsageError
    for an option that cannot be honoured.
    """
    _refuse_foreign_names(checkpoint)
    notes: list[str] = []
    settings = Settings(checkpoint, notes)
    groups = settings.norm_groups()
    unet, text, vae = (_Network(checkpoint, prefix, groups) for prefix in (UNET, TEXT, VAE))
    for label, network in zip(NETWORKS, (unet, text, vae), strict=True):
        if not network.shapes:
            raise FamilyError(f"{checkpoint.path}: has no {label}; give a checkpoint with all networks")
    config = ModelConfig(
        family="sd1",
        prediction=settings.prediction(prediction),
        unet=settings.with_heads(_unet_config(unet), heads),
        text=settings.with_text_heads(_text_config(text)),
        vae=replace(_vae_config(vae), scaling_factor=settings.scaling_factor()),
    )
    _check_fit(checkpoint.path, config)
    _check_tensors(checkpoint, config)
    return replace(config, notes=tuple(notes + _leftovers(checkpoint, config)))


def expected_tensors(config: ModelConfig) -> dict[str, Shape]:
    """Canonical name to shape of every tensor that the networks of `config` read."""
    networks = (
        (UNET, unet_layers(config.unet)),
        (TEXT, text_layers(config.text)),
        (VAE, vae_layers(config.vae)),
    )
    return {
        prefix + name: shape
        for prefix, layers in networks
        for layer in layers
        for name, shape in layer.tensors()
    }


def describe(checkpoint: Checkpoint, config: ModelConfig) -> dict[str, object]:
    """What a person wants to know of a checkpoint, as JSON-ready data: names, counts, bytes and notes."""
    expected = expected_tensors(config)
    parameters: dict[str, dict[str, int]] = {}
    for label, prefix in NETWORKS.items():
        shapes = [shape for name, shape in expected.items() if name.startswith(prefix)]
        parameters[label] = {"tensors": len(shapes), "parameters": sum(math.prod(shape) for shape in shapes)}
    stored = {
        dtype: {"tensors": count, "bytes": size} for dtype, (count, size) in checkpoint.stored_bytes().items()
    }
    facts = {key: checkpoint.metadata.get(f"modelspec.{key}") for key in ("title", "author", "license")}
    return {
        "family": config.family,
        "prediction": config.prediction,
        "networks": parameters,
        "stored": stored,
        "notes": list(config.notes),
        "metadata": {key: _printable(value) for key, value in facts.items() if value is not None},
    }


class _Network:
    """The tensors of one network, by name without prefix; `norm_groups` must divide its widths."""

    def __init__(self, checkpoint: Checkpoint, prefix: str, norm_groups: int) -> None:
        self.path = checkpoint.path
        self.prefix = prefix
        self.norm_groups = norm_groups
        self.shapes: dict[str, Shape] = {
            name.removeprefix(prefix): tensor.shape
            for name, tensor in checkpoint.tensors.items()
            if name.startswith(prefix)
        }
        self._children: dict[str, set[str]] = defaultdict(set)
        for name in self.shapes:
            parts = name.split(".")
            for depth in range(1, len(parts)):
                self._children[".".join(parts[:depth])].add(parts[depth])

    def shape(self, name: str, rank: int) -> Shape:
        """The shape of a tensor that must be there, of this rank and not empty."""
        shape = self.shapes.get(name)
        if shape is None:
            raise FamilyError(f"{self.path}: tensor {self.prefix}{name} is missing")
        if len(shape) != rank or 0 in shape:
            found = f"has shape {list(shape)}, expected {rank} dimensions, none of them zero"
            raise FamilyError(f"{self.path}: tensor {self.prefix}{name} {found}")
        return shape

    def count(self, path: str) -> int:
        """How many modules `path.0`, `path.1`, ... there are. Raises FamilyError if one is left out."""
        found = self._children.get(path, set())
        for index in range(len(found)):
            if str(index) not in found:
                others = f"though there are {len(found)} modules beside it"
                raise FamilyError(f"{self.path}: module {self.prefix}{path}.{index} is missing, {others}")
        return len(found)

    def common(self, what: str, values: Iterable[int]) -> int:
        """The one value that all of `values` have. Raises FamilyError if they differ."""
        different = sorted(set(values))
        if len(different) != 1:
            self.refuse(f"{what} of its levels differ ({', '.join(map(str, different)) or 'none found'})")
        return different[0]

    def multiplier(self, channels: int, base: int) -> int:
        if channels % base or channels % self.norm_groups:
            self.refuse(f"{channels} channels are not a multiple of {base} and of {self.norm_groups}")
        return channels // base

    def refuse(self, reason: str) -> NoReturn:
        raise FamilyError(f"{self.path}: {self.prefix}* is no network that sdcomp compiles: {reason}")


def _unet_config(network: _Network) -> UNetConfig:
    """Counts levels, blocks and transformers of the encoder; `_check_tensors` holds the decoder to them."""
    width, in_channels = network.shape("input_blocks.0.0.weight", 4)[:2]
    levels: list[list[tuple[int, int]]] = [[]]
    for index in range(1, network.count("input_blocks")):
        path = f"input_blocks.{index}"
        if f"{path}.0.op.weight" in network.shapes:
            levels.append([])
            continue
        multiplier = network.multiplier(network.shape(f"{path}.0.in_layers.2.weight", 4)[0], width)
        levels[-1].append((multiplier, network.count(f"{path}.1.transformer_blocks")))
    res_blocks = network.common("block counts", map(len, levels))
    if network.count("output_blocks") != len(levels) * (res_blocks + 1):
        network.refuse(f"{network.count('output_blocks')} output blocks do not mirror its input blocks")
    middle = "middle_block.1"
    depths = [network.common("transformer depths", (depth for _, depth in level)) for level in levels]
    return UNetConfig(
        prefix=UNET,
        in_channels=in_channels,
        out_channels=network.shape("out.2.weight", 4)[0],
        model_channels=width,
        channel_mult=tuple(network.common("widths", (width for width, _ in level)) for level in levels),
        res_blocks=res_blocks,
        transformer_depth=tuple(depths),
        middle_depth=network.count(f"{middle}.transformer_blocks"),
        context_channels=network.shape(f"{middle}.transformer_blocks.0.attn2.to_k.weight", 2)[1],
        heads=SD1_HEADS,
        head_channels=None,
        linear_projection=len(network.shapes.get(f"{middle}.proj_in.weight", ())) == 2,
        norm_groups=network.norm_groups,
    )


def _text_config(network: _Network) -> TextEncoderConfig:
    vocabulary, width = network.shape("text_model.embeddings.token_embedding.weight", 2)
    return TextEncoderConfig(
        prefix=TEXT,
        width=width,
        layers=network.count("text_model.encoder.layers"),
        heads=1,
        mlp_width=network.shape("text_model.encoder.layers.0.mlp.fc1.weight", 2)[0],
        activation="quick_gelu",
        vocabulary=vocabulary,
        positions=network.shape("text_model.embeddings.position_embedding.weight", 2)[0],
    )


def _vae_config(network: _Network) -> VaeConfig:
    image_channels, channels = network.shape("decoder.conv_out.weight", 4)[:2]
    levels = range(network.count("decoder.up"))
    has_encoder = any(name.startswith("encoder.") for name in network.shapes)
    decoder_blocks = network.common("block counts", (network.count(f"decoder.up.{i}.block") for i in levels))
    encoder_blocks = decoder_blocks - 1
    if has_encoder:
        network.common("encoder and decoder counts", (len(levels), network.count("encoder.down")))
        counts = (network.count(f"encoder.down.{i}.block") for i in levels)
        encoder_blocks = network.common("block counts", counts)
    widths = [network.shape(f"decoder.up.{i}.block.0.conv2.weight", 4)[0] for i in levels]
    return VaeConfig(
        prefix=VAE,
        channels=channels,
        channel_mult=tuple(network.multiplier(width, channels) for width in widths),
        encoder_res_blocks=encoder_blocks,
        decoder_res_blocks=decoder_blocks,
        latent_channels=network.shape("post_quant_conv.weight", 4)[0],
        image_channels=image_channels,
        scaling_factor=SD1_SCALING_FACTOR,
        has_encoder=has_encoder,
        norm_groups=network.norm_groups,
    )


def _refuse_foreign_names(checkpoint: Checkpoint) -> None:
    for name in (*checkpoint.tensors, *checkpoint.unknown):
        for pattern, description in FOREIGN_NAMES:
            if pattern.match(name):
                _refuse(checkpoint.path, f"{description} (it has the tensor {quoted(name)})")
    if f"{UNET}label_emb.0.0.weight" in checkpoint.tensors:
        size = sum(checkpoint.tensors[f"{UNET}label_emb.0.0.weight"].shape[-1:])
        _refuse(checkpoint.path, FOREIGN_LABELS.get(size, "a UNet with class conditioning (label_emb)"))


def _refuse(path: Path, description: str) -> NoReturn:
    raise FamilyError(f"{path}: is {description}; this version of sdcomp compiles Stable Diffusion 1.x only")


def _check_fit(path: Path, config: ModelConfig) -> None:
    """The networks must fit each other, and the heads the widths."""
    unet, text, vae = config.unet, config.text, config.vae
    if unet.context_channels in FOREIGN_CONTEXTS:
        context = f"its context is {unet.context_channels} wide"
        _refuse(path, f"{FOREIGN_CONTEXTS[unet.context_channels]} ({context})")
    if unet.in_channels != vae.latent_channels:
        kind = FOREIGN_INPUTS.get(unet.in_channels, "no text-to-image model")
        _refuse(path, f"{kind} (its UNet reads {unet.in_channels} channels, its VAE {vae.latent_channels})")
    if unet.out_channels != vae.latent_channels:
        raise FamilyError(
            f"{path}: its UNet writes {unet.out_channels} channels, its VAE reads {vae.latent_channels}"
        )
    if unet.context_channels != text.width:
        raise FamilyError(
            f"{path}: its text encoder is {text.width} wide, its UNet expects {unet.context_channels}"
        )
    depths = zip(unet.channel_mult, unet.transformer_depth, strict=True)
    widths = {unet.model_channels * multiplier for multiplier, depth in depths if depth}
    for width in sorted(widths | {unet.model_channels * unet.channel_mult[-1]}):
        if width % (unet.heads or unet.head_channels or 1):
            heads = f"{unet.heads} heads" if unet.heads else f"heads of {unet.head_channels} channels"
            raise FamilyError(f"{path}: {heads} do not divide the UNet's {width} channels; give other heads")
    if text.width % text.heads:
        raise FamilyError(f"{path}: {text.heads} heads do not divide the text encoder's width {text.width}")


def _check_tensors(checkpoint: Checkpoint, config: ModelConfig) -> None:
    expected = expected_tensors(config)
    wrong = []
    for name, shape in expected.items():
        tensor = checkpoint.tensors.get(name)
        if tensor is None or tensor.shape != shape:
            found = "missing" if tensor is None else f"found {list(tensor.shape)}"
            wrong.append(f"{name} (expected {list(shape)}, {found})")
    if wrong:
        count = f"{len(wrong)} of {len(expected)} tensors do not fit a Stable Diffusion 1.x model"
        raise FamilyError(f"{checkpoint.path}: {count}: {_first_few(wrong, '; ')}")


def _leftovers(checkpoint: Checkpoint, config: ModelConfig) -> list[str]:
    """Notes on tensors that no network reads, and on a vocabulary that the tokenizer would overrun."""
    notes = []
    known = expected_tensors(config)
    extra = [quoted(name) for name in (*checkpoint.tensors, *checkpoint.unknown) if name not in known]
    if extra:
        notes.append(f"Tensors that no network reads are left out, {len(extra)}: {_first_few(extra, ', ')}.")
    if config.text.vocabulary < CLIP_VOCABULARY:
        fewer = f"{config.text.vocabulary} tokens, fewer than CLIP's {CLIP_VOCABULARY}"
        notes.append(f"The text encoder's vocabulary has {fewer}.")
    return notes


def _first_few(items: list[str], separator: str, limit: int = 5) -> str:
    more = f"{separator}and {len(items) - limit} more" if len(items) > limit else ""
    return separator.join(items[:limit]) + more


def _printable(text: str, limit: int = 500) -> str:
    """Text from a file without control characters, which could rewrite a terminal, and not too long."""
    return "".join(character for character in text[:limit] if character.isprintable())
