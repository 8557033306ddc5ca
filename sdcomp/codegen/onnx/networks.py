"""The networks as Hugging Face's pipelines call them: folders, names of inputs and outputs, free extents."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sdcomp.frontend.builder import Lookup
from sdcomp.frontend.clip import lower_text_encoder
from sdcomp.frontend.config import ModelConfig
from sdcomp.frontend.unet import latent_multiple, lower_unet
from sdcomp.frontend.vae import lower_vae_decoder, lower_vae_encoder
from sdcomp.ir.graph import Graph, Node
from sdcomp.ir.ops import build
from sdcomp.ir.rewrite import rewrite


@dataclass(frozen=True)
class Network:
    """One exported model.

    `inputs` maps a program's input names to the model's, `outputs` each output of the model to the program's
    outputs that it joins along axis 1. `axes` names the axes of the model's inputs where they are free.
    """

    folder: str
    inputs: Mapping[str, str]
    outputs: Mapping[str, Sequence[str]]
    axes: Mapping[str, Sequence[str]]


NETWORKS = {
    "text": Network(
        "text_encoder",
        {"tokens": "input_ids"},
        {"last_hidden_state": ("hidden_states",)},
        {"input_ids": ("batch_size",)},
    ),
    "unet": Network(
        "unet",
        {"latents": "sample", "timestep": "timestep", "context": "encoder_hidden_states"},
        {"out_sample": ("noise",)},
        {"sample": ("batch_size", "channels", "height", "width"), "encoder_hidden_states": ("batch_size",)},
    ),
    "vae_decoder": Network(
        "vae_decoder",
        {"latents": "latent_sample"},
        {"sample": ("image",)},
        {"latent_sample": ("batch_size", "channels", "latent_height", "latent_width")},
    ),
    "vae_encoder": Network(
        "vae_encoder",
        {"image": "sample"},
        {"latent_parameters": ("mean", "log_variance")},
        {"sample": ("batch_size", "channels", "sample_height", "sample_width")},
    ),
}
"""By the name of the graph."""


@dataclass(frozen=True)
class Size:
    """Of a picture in pixels, and how many."""

    width: int
    height: int
    batch: int


def probes(config: ModelConfig, size: tuple[int, int] | None) -> tuple[Size, Size]:
    """Two sizes whose networks differ in what is free: the batch, and the picture's size where it is None.

    The ratios of batch, height, width and of their products are all different.
    """
    if size is not None:
        return Size(*size, 1), Size(*size, 2)
    unit = config.vae.downscale * latent_multiple(config.unet)
    return Size(8 * unit, 8 * unit, 1), Size(7 * unit, 5 * unit, 2)


def lower_networks(config: ModelConfig, weights: Lookup, size: Size) -> list[Graph]:
    """Every network of the model as pipelines call it, named as in `NETWORKS`, over shared weights.

    Raises FamilyError for a weight that does not fit, UsageError for an impossible size.
    """
    height, width = size.height // config.vae.downscale, size.width // config.vae.downscale
    tokens = config.text.positions
    graphs = [
        lower_text_encoder(config.text, weights, size.batch),
        lower_unet(config.unet, weights, size.batch, size.batch, height, width, tokens),
        lower_vae_decoder(config.vae, weights, height, width, batch=size.batch),
    ]
    if config.vae.has_encoder:
        graphs.append(lower_vae_encoder(config.vae, weights, size.height, size.width, batch=size.batch))
    return [_renamed(graph, NETWORKS[graph.name]) for graph in graphs]


def _renamed(graph: Graph, network: Network) -> Graph:
    """The graph with the inputs and outputs of the exported model."""

    def rename(node: Node) -> Node | None:
        if node.op != "input":
            return None
        name = network.inputs[node.text("name")]
        # Pipelines hand over the timestep as a scalar.
        shape = () if name == "timestep" else node.shape
        source = build("input", name=name, rate=node.text("rate"), shape=shape, dtype=node.dtype.value)
        return source if shape == node.shape else build("reshape", source, shape=node.shape)

    renamed = rewrite(graph, rename).outputs
    return Graph(
        graph.name,
        {
            name: build("concat", *(renamed[part] for part in parts), axis=1)
            if len(parts) > 1
            else renamed[parts[0]]
            for name, parts in network.outputs.items()
        },
    )
