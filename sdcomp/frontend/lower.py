"""Lowering of a whole model: every network at every size, over one set of weight nodes."""

from collections.abc import Iterator, Mapping, Sequence

from sdcomp.errors import FamilyError
from sdcomp.frontend.builder import Lookup, Weights, require_multiple
from sdcomp.frontend.clip import lower_text_encoder
from sdcomp.frontend.config import ModelConfig
from sdcomp.frontend.unet import latent_multiple, lower_unet
from sdcomp.frontend.vae import lower_vae_decoder, lower_vae_encoder
from sdcomp.ir.graph import Graph, Module, Node
from sdcomp.ir.ops import build
from sdcomp.ir.types import TensorType
from sdcomp.passes.apply_adapters import CHECKPOINT


def lower_model(
    config: ModelConfig,
    checkpoint_types: Mapping[str, TensorType],
    sizes: Sequence[tuple[int, int]],
    batches: Sequence[int] = (1, 2),
) -> Module:
    """The module of `text`, and per size `unet@WxHxB` for each batch B, `vae_decoder@WxH`, `vae_encoder@WxH`.

    `checkpoint_types` has the type of every tensor by canonical name; `sizes` are (width, height) of the
    image in pixels. A UNet of batch B takes one latent and B contexts. The encoder is there if the
    checkpoint has one. Weight nodes are shared by all graphs.

    Raises UsageError for a size that the networks cannot have, FamilyError for a tensor that is missing or of
    the wrong shape.
    """
    for width, height in sizes:
        require_multiple("size", config.vae.downscale * latent_multiple(config.unet), width, height)
    weights = Weights(checkpoint_weights(checkpoint_types))
    graphs = [lower_text_encoder(config.text, weights)]
    for width, height in dict.fromkeys(sizes):
        graphs.extend(_lower_size(config, weights, width, height, batches))
    return Module(tuple(graphs), _facts(config, sizes))


def _lower_size(
    config: ModelConfig, weights: Lookup, width: int, height: int, batches: Sequence[int]
) -> Iterator[Graph]:
    size = f"{width}x{height}"
    latent_height, latent_width = height // config.vae.downscale, width // config.vae.downscale
    for batch in dict.fromkeys(batches):
        name = f"unet@{size}x{batch}"
        tokens = config.text.positions
        yield lower_unet(config.unet, weights, batch, 1, latent_height, latent_width, tokens, name)
    yield lower_vae_decoder(config.vae, weights, latent_height, latent_width, f"vae_decoder@{size}")
    if config.vae.has_encoder:
        yield lower_vae_encoder(config.vae, weights, height, width, f"vae_encoder@{size}")


def checkpoint_weights(types: Mapping[str, TensorType]) -> Lookup:
    """Weight nodes of a checkpoint with tensors of these types; FamilyError for one that is missing."""

    def weight(name: str) -> Node:
        if name not in types:
            raise FamilyError(f"{name}: the checkpoint has no such tensor, but the network needs it")
        found = types[name]
        return build("weight", name=name, file=CHECKPOINT, shape=found.shape, dtype=found.dtype.value)

    return weight


def _facts(config: ModelConfig, sizes: Sequence[tuple[int, int]]) -> dict[str, str]:
    return {
        "family": config.family,
        "prediction": config.prediction,
        "scaling_factor": repr(config.vae.scaling_factor),
        "sizes": " ".join(f"{width}x{height}" for width, height in dict.fromkeys(sizes)),
    }
