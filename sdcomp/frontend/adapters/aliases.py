"""Every name that an adapter may give to a module of this model, in one dictionary.

Underscored names cannot be taken apart again (`to_out_0`, `proj_in` hold underscores themselves), so names
are generated from the model's own modules and looked up, never parsed.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from sdcomp.errors import AdapterError
from sdcomp.frontend.adapters.peft import PREFIX as PEFT
from sdcomp.frontend.config import ModelConfig
from sdcomp.frontend.names import Layer, text_layers, unet_layers
from sdcomp.ir.types import Shape


@dataclass(frozen=True)
class Prefixes:
    """What sd-scripts, LyCORIS, diffusers, PEFT and ComfyUI put before a module's name, by its separator."""

    underscored: tuple[str, ...]
    dotted: tuple[str, ...]


UNET = Prefixes(
    ("lora_unet_", "lycoris_", "oft_unet_"),
    ("", "unet.", "diffusion_model.", "model.diffusion_model.", PEFT, f"unet.{PEFT}"),
)
TEXT = Prefixes(
    ("lora_te_", "lora_te1_", "lycoris_", "oft_te_"),
    (
        *(
            "",
            "text_encoder.",
            "clip_l.",
            "text_encoders.clip_l.transformer.",
            "cond_stage_model.transformer.",
        ),
        *(PEFT, f"text_encoder.{PEFT}"),
    ),
)
"""The text encoder of a model that has one."""

FIRST_OF_TWO = Prefixes(("lora_te1_",), ("text_encoder.", "clip_l.", f"text_encoder.{PEFT}"))
SECOND_OF_TWO = Prefixes(("lora_te2_",), ("text_encoder_2.", "clip_g.", f"text_encoder_2.{PEFT}"))
"""The text encoders of SDXL: names that both have need the prefix."""

TEXT_MODEL = "text_model."

PROCESSORS = {".to_q": ".to_q", ".to_k": ".to_k", ".to_v": ".to_v", ".to_out.0": ".to_out"}
"""diffusers before 0.22 put adapters of the UNet's attention under `.processor`."""

TEXT_PROCESSORS = {".q_proj": ".to_q", ".k_proj": ".to_k", ".v_proj": ".to_v", ".out_proj": ".to_out"}
"""And named those of the text encoder's attention like the UNet's."""


@dataclass(frozen=True)
class Target:
    """A module that an adapter may change: canonical names of its weight and bias, and the weight's shape.

    `shape` is that of a linear layer [out, in], a convolution [out, in, height, width] or a normalisation
    [n]. The module may be `rows` of a larger weight, start and stop, as query, key and value of OpenCLIP are,
    or lie `turned` in the checkpoint, as OpenCLIP's text_projection [in, out] does.
    """

    weight: str
    shape: Shape
    is_text: bool
    bias: str | None = None
    rows: tuple[int, int] | None = None
    turned: bool = False


Named = tuple[tuple[str, ...], Target]
"""A target, and all dotted paths that it has without a prefix."""


def module_aliases(config: ModelConfig) -> dict[str, Target]:
    """From every alias of every UNet and text encoder module to its weight."""
    unet = unet_targets(config.unet.prefix, unet_layers(config.unet))
    text = text_targets(config.text.prefix, text_layers(config.text))
    return alias_table([(UNET, unet), (TEXT, text)])


def alias_table(networks: Iterable[tuple[Prefixes, Iterable[Named]]]) -> dict[str, Target]:
    """From every alias to its target. Raises AdapterError where an alias is that of two targets."""
    targets: dict[str, Target] = {}
    for prefixes, named in networks:
        for paths, target in named:
            for alias in _aliases(paths, prefixes):
                other = targets.setdefault(alias, target)
                if other != target:
                    raise AdapterError(
                        f"{alias}: names two modules of this model, {other.weight} and {target.weight}"
                    )
    return targets


def unet_targets(prefix: str, layers: Iterable[Layer]) -> Iterator[Named]:
    """The modules of a UNet in latent diffusion's naming, which lies behind `prefix`."""
    for layer in layers:
        yield (layer.path, layer.alias, *_processor_paths(layer.alias)), _target(prefix, layer, is_text=False)


def text_targets(prefix: str, layers: Iterable[Layer]) -> Iterator[Named]:
    """The modules of a text encoder in transformers' naming."""
    for layer in layers:
        yield text_paths(layer.path), _target(prefix, layer, is_text=True)


def text_paths(path: str) -> tuple[str, ...]:
    """The names of a text encoder's module. transformers from 5.6 on has no `text_model` level."""
    paths = [path, *_renamed(path, ".self_attn", TEXT_PROCESSORS, "")]
    return tuple(dict.fromkeys((*paths, *(name.removeprefix(TEXT_MODEL) for name in paths))))


def _target(prefix: str, layer: Layer, is_text: bool) -> Target:
    name = f"{prefix}{layer.path}"
    return Target(f"{name}.weight", layer.shape, is_text, f"{name}.bias" if layer.bias else None)


def _processor_paths(path: str) -> Iterator[str]:
    for attention in (".attn1", ".attn2"):
        yield from _renamed(path, attention, PROCESSORS, ".processor")


def _renamed(path: str, parent: str, names: dict[str, str], level: str) -> Iterator[str]:
    for name, other in names.items():
        if path.endswith(parent + name):
            yield path.removesuffix(name) + level + other


def _aliases(paths: Iterable[str], prefixes: Prefixes) -> Iterator[str]:
    for path in paths:
        yield from (prefix + path.replace(".", "_") for prefix in prefixes.underscored)
        yield from (prefix + path for prefix in prefixes.dotted)
