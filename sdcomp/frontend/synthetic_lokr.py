"""Random LoKr adapters of every form, with the names of kohya's files: for demonstrations and tests."""

import math
from collections.abc import Iterator, Sequence
from enum import Enum
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from sdcomp.frontend.config import ModelConfig
from sdcomp.frontend.names import Layer, text_layers, unet_layers
from sdcomp.ir.types import Array, Shape

ADAPTED = (".attn", ".ff.", ".proj_in", ".proj_out", ".conv", "self_attn.", ".mlp.")
"""Parts of the diffusers names of the modules that an adapter usually changes."""

RANK = 16
"""The largest rank of a factor that is stored as a product."""


class Form(Enum):
    """How the factors of a module are stored; only a kernel larger than 1x1 has a Tucker form."""

    WHOLE = "w1, w2"
    SECOND_SPLIT = "w1, w2_a w2_b"
    BOTH_SPLIT = "w1_a w1_b, w2_a w2_b"
    TUCKER = "w1, t2 w2_a w2_b"


def write_random_lokr(
    path: Path | str,
    config: ModelConfig,
    factor: int = 4,
    gain: float = 0.5,
    seed: int = 0,
    forms: Sequence[Form] = (Form.WHOLE,),
    linear: bool = False,
) -> int:
    """Writes an adapter, in f16, for attention, feed-forward and, unless `linear`, convolutions larger than
    1x1; returns how many modules.

    W's difference is gamma kron(w1, w2), w1 at most `factor` x `factor`; its elements have `gain` times the
    standard deviation of a layer's weights. Modules have `forms` in turn. gamma is a half where a factor is
    split, and 1 otherwise. Raises OSError where the file cannot be written.
    """
    generator = np.random.default_rng(seed)
    tensors: dict[str, Array] = {}
    adapted = _adapted_modules(config)
    modules = [(name, shape) for name, shape in adapted if not linear or math.prod(shape[2:]) == 1]
    for index, (module, shape) in enumerate(modules):
        possible = [form for form in forms if form is not Form.TUCKER or math.prod(shape[2:]) > 1]
        factors = _Factors(shape, factor, gain, generator).of_form(possible[index % len(possible)])
        tensors |= {f"{module}.{suffix}": value.astype(np.float16) for suffix, value in factors.items()}
    save_file(tensors, str(path), metadata={"ss_network_module": "lycoris.kohya"})
    return len(modules)


def _adapted_modules(config: ModelConfig) -> Iterator[tuple[str, Shape]]:
    """kohya's name and the weight's shape of every module that is adapted."""
    networks: tuple[tuple[str, Iterator[Layer]], ...] = (
        ("lora_te_", text_layers(config.text)),
        ("lora_unet_", unet_layers(config.unet)),
    )
    for prefix, layers in networks:
        for layer in layers:
            if len(layer.shape) > 1 and any(part in layer.alias for part in ADAPTED):
                yield prefix + layer.alias.replace(".", "_"), layer.shape


class _Factors:
    """Random factors of one weight, scaled so that their product has the wanted effect."""

    def __init__(self, shape: Shape, factor: int, gain: float, generator: np.random.Generator) -> None:
        self._first = math.gcd(shape[0], factor), math.gcd(shape[1], factor)
        self._second = shape[0] // self._first[0], shape[1] // self._first[1]
        self._kernel = shape[2:]
        self._generator = generator
        self._deviation = gain / math.sqrt(math.prod(shape[1:]))

    def of_form(self, form: Form) -> dict[str, Array]:
        """By suffix. alpha is the rank where it is ignored, as LyCORIS writes it, otherwise half of it."""
        rank = min(RANK, *self._second)
        gamma = 1.0 if form is Form.WHOLE else 0.5
        first = self._w1(form, rank)
        return {**first, **self._w2(form, rank, self._deviation / gamma), "alpha": np.array(gamma * rank)}

    def _w1(self, form: Form, rank: int) -> dict[str, Array]:
        if form is not Form.BOTH_SPLIT:
            return {"lokr_w1": self._normal(1.0, *self._first)}
        outer, inner = self._first
        halves = self._normal(rank**-0.5, outer, rank), self._normal(1.0, rank, inner)
        return {"lokr_w1_a": halves[0], "lokr_w1_b": halves[1]}

    def _w2(self, form: Form, rank: int, deviation: float) -> dict[str, Array]:
        outer, inner = self._second
        if form is Form.WHOLE:
            return {"lokr_w2": self._normal(deviation, outer, inner, *self._kernel)}
        if form is Form.TUCKER:
            return {
                "lokr_t2": self._normal(deviation / rank, rank, rank, *self._kernel),
                "lokr_w2_a": self._normal(1.0, rank, outer),
                "lokr_w2_b": self._normal(1.0, rank, inner),
            }
        return {
            "lokr_w2_a": self._normal(rank**-0.5, outer, rank),
            "lokr_w2_b": self._normal(deviation, rank, inner * math.prod(self._kernel)),
        }

    def _normal(self, deviation: float, *shape: int) -> Array:
        return np.asarray(deviation * self._generator.standard_normal(shape))
