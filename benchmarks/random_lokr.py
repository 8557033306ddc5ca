"""Random LoKr adapters, to measure builds and accuracy with."""

import math
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from benchmarks.cases import Array
from benchmarks.lokr import Module, model_modules
from sdcomp.errors import UsageError
from sdcomp.frontend.config import ModelConfig

_RANK = 16
_EFFECT = 0.2
"""Norm of a weight's change over the norm of a weight of variance 1 / inputs."""

_WHOLE, _SECOND_SPLIT, _BOTH_SPLIT, _TUCKER = range(4)


def write_lokr(path: Path, config: ModelConfig, factor: int, seed: int) -> int:
    """Writes an adapter for attention, feed-forward and 3x3 convolutions, in f16; returns their number.

    `factor` bounds the sides of a module's smaller factor. Factors are whole, decomposed or, for 3x3
    convolutions, in Tucker form, in turn. Raises UsageError.
    """
    if factor < 1:
        raise UsageError(f"--factor {factor}: expected 1 or more")
    generator = np.random.default_rng(seed)
    modules = [module for module in model_modules(config) if _is_adapted(module)]
    tensors: dict[str, Array] = {}
    for index, module in enumerate(modules):
        form = index % (4 if _is_spatial(module) else 3)
        factors = _Factors(module.shape, factor, generator).of_form(form)
        tensors |= {f"{module.key}.{suffix}": value.astype(np.float16) for suffix, value in factors.items()}
    try:
        save_file(tensors, path, metadata={"ss_network_module": "lycoris.kohya"})
    except OSError as error:
        raise UsageError(f"{path}: cannot be written: {error.strerror or error}") from None
    return len(modules)


def _is_spatial(module: Module) -> bool:
    return module.shape[2:] == (3, 3)


def _is_adapted(module: Module) -> bool:
    """The UNet's feed-forward layers are below `attentions`, the text encoder's below `encoder.layers`."""
    inside = "_attentions_" in module.key or "_encoder_layers_" in module.key
    return _is_spatial(module) or (inside and len(module.shape) > 1)


class _Factors:
    """Random factors of one weight, scaled so that their product has the wanted effect."""

    def __init__(self, shape: tuple[int, ...], factor: int, generator: np.random.Generator) -> None:
        (outer, outer_rest), (inner, inner_rest) = (_factorised(side, factor) for side in shape[:2])
        self._first, self._second = (outer, inner), (outer_rest, inner_rest)
        self._kernel = shape[2:]
        self._generator = generator
        self._deviation = _EFFECT / math.sqrt(math.prod(shape[1:]))

    def of_form(self, form: int) -> dict[str, Array]:
        """alpha is half of the rank, so gamma is a half, and counts only where a factor is decomposed."""
        rank = min(_RANK, *self._second)
        gamma = 1.0 if form == _WHOLE else 0.5
        alpha = {"alpha": np.array(rank / 2)}
        return {**self._w1(form, rank), **self._w2(form, rank, self._deviation / gamma), **alpha}

    def _w1(self, form: int, rank: int) -> dict[str, Array]:
        if form != _BOTH_SPLIT:
            return {"lokr_w1": self._normal(1.0, *self._first)}
        outer, inner = self._first
        return {
            "lokr_w1_a": self._normal(rank**-0.5, outer, rank),
            "lokr_w1_b": self._normal(1.0, rank, inner),
        }

    def _w2(self, form: int, rank: int, deviation: float) -> dict[str, Array]:
        outer, inner = self._second
        if form == _WHOLE:
            return {"lokr_w2": self._normal(deviation, outer, inner, *self._kernel)}
        if form == _TUCKER:
            return {
                "lokr_t2": self._normal(deviation / rank, rank, rank, *self._kernel),
                "lokr_w2_a": self._normal(1.0, rank, outer),
                "lokr_w2_b": self._normal(1.0, rank, inner),
            }
        columns = inner * math.prod(self._kernel)
        return {
            "lokr_w2_a": self._normal(rank**-0.5, outer, rank),
            "lokr_w2_b": self._normal(deviation, rank, columns),
        }

    def _normal(self, deviation: float, *shape: int) -> Array:
        return deviation * self._generator.standard_normal(shape)


def _factorised(side: int, factor: int) -> tuple[int, int]:
    """Two factors of a side, the first the largest one up to `factor`, never above the second."""
    most = min(factor, math.isqrt(side))
    first = max(divisor for divisor in range(1, most + 1) if side % divisor == 0)
    return first, side // first
