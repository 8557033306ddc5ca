"""Every name that an adapter may give to a module of this model, in one dictionary.

Underscored names cannot be taken apart again (`to_out_0`, `proj_in` hold underscores themselves), so names
are generated from the model's own modules and looked up, never parsed.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from sdcomp.errors import AdapterError
from sdcomp.frontend.config import ModelConfig
from sdcomp.frontend.names import Layer, text_layers, unet_layers
from sdcomp.ir.types import Shape

UNET_UNDERSCORED = ("lora_unet_", "lycoris_")
UNET_DOTTED = ("", "unet.", "diffusion_model.", "model.diffusion_model.")
TEXT_UNDERSCORED = ("lora_te_", "lora_te1_", "lycoris_")
TEXT_DOTTED = (
    "",
    "text_encoder.",
    "clip_l.",
    "text_encoders.clip_l.transformer.",
    "cond_stage_model.transformer.",
)
"""Prefixes that sd-scripts, LyCORIS, diffusers and ComfyUI put before a module's name, by its separator."""

TEXT_MODEL = "text_model."


@dataclass(frozen=True)
class Target:
    """A weight that an adapter may change: its canonical name and shape."""

    weight: str
    shape: Shape
    is_text: bool


def module_aliases(config: ModelConfig) -> dict[str, Target]:
    """From every alias of every UNet and text encoder module to its weight."""
    targets: dict[str, Target] = {}
    for layer in unet_layers(config.unet):
        target = Target(f"{config.unet.prefix}{layer.path}.weight", layer.shape, is_text=False)
        _add(targets, target, _aliases((layer.path, layer.alias), UNET_UNDERSCORED, UNET_DOTTED))
    for layer in text_layers(config.text):
        target = Target(f"{config.text.prefix}{layer.path}.weight", layer.shape, is_text=True)
        _add(targets, target, _aliases(_text_paths(layer), TEXT_UNDERSCORED, TEXT_DOTTED))
    return targets


def _text_paths(layer: Layer) -> tuple[str, ...]:
    """transformers from 5.6 on has no `text_model` level."""
    return layer.path, layer.path.removeprefix(TEXT_MODEL)


def _aliases(paths: Iterable[str], underscored: Iterable[str], dotted: Iterable[str]) -> Iterator[str]:
    for path in paths:
        yield from (prefix + path.replace(".", "_") for prefix in underscored)
        yield from (prefix + path for prefix in dotted)


def _add(targets: dict[str, Target], target: Target, aliases: Iterable[str]) -> None:
    for alias in aliases:
        other = targets.setdefault(alias, target)
        if other != target:
            raise AdapterError(
                f"{alias}: names two modules of this model, {other.weight} and {target.weight}"
            )
