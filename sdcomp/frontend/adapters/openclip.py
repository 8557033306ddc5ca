"""Text encoders in OpenCLIP's layout, as Stable Diffusion 2 and SDXL checkpoints have them.

Adapters name transformers' modules; this says where each of them lies. Query, key and value are rows of one
weight, and text_projection is turned: x P there, P^T x here.
"""

from collections.abc import Iterable, Iterator

from sdcomp.frontend.adapters.aliases import TEXT_MODEL, Named, Target, text_paths
from sdcomp.frontend.names import Layer
from sdcomp.ir.types import Shape

LAYER_MODULES = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "self_attn.out_proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
FUSED = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
"""In the order of their rows in `attn.in_proj_weight`."""

TENSORS = {
    "embeddings.token_embedding": "token_embedding.weight",
    "embeddings.position_embedding": "positional_embedding",
}
FINAL_NORM = "final_layer_norm"
TEXT_PROJECTION = "text_projection"


def open_clip_targets(
    prefix: str, layers: Iterable[Layer], projection: Shape | None = None
) -> Iterator[Named]:
    """The modules of `layers` (transformers' names and shapes) in an OpenCLIP text encoder behind `prefix`.

    `projection` is the shape of text_projection as an adapter sees it, [out, in], if the encoder has one.
    """
    for layer in layers:
        yield text_paths(layer.path), _target(prefix, layer.path.removeprefix(TEXT_MODEL), layer.shape)
    if projection is not None:
        yield text_paths(TEXT_PROJECTION), Target(prefix + TEXT_PROJECTION, projection, True, turned=True)


def _target(prefix: str, path: str, shape: Shape) -> Target:
    if path in TENSORS:
        return Target(prefix + TENSORS[path], shape, is_text=True)
    if path == FINAL_NORM:
        return Target(f"{prefix}ln_final.weight", shape, True, f"{prefix}ln_final.bias")
    _, _, index, module = path.split(".", 3)
    block = f"{prefix}transformer.resblocks.{index}"
    if module in FUSED:
        start = FUSED.index(module) * shape[0]
        name = f"{block}.attn.in_proj_"
        return Target(f"{name}weight", shape, True, f"{name}bias", (start, start + shape[0]))
    name = f"{block}.{LAYER_MODULES[module]}"
    return Target(f"{name}.weight", shape, True, f"{name}.bias")
