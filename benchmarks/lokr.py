"""The effect of a LoKr adapter in kohya's naming, by the formula alone, independent of the compiler.

The formula is that of LyCORIS (lycoris/modules/lokr.py), in numpy and f64.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from benchmarks.cases import Array
from sdcomp.errors import UsageError
from sdcomp.frontend.config import ModelConfig
from sdcomp.frontend.names import text_layers, unet_layers


@dataclass(frozen=True)
class Module:
    """A module that an adapter may change: its key there, the canonical name and the shape of its weight."""

    key: str
    weight: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Adaptation:
    """An adapter's factors with its strength, by the canonical name of the weight that they change."""

    strength: float
    modules: Mapping[str, tuple[Module, Mapping[str, Array]]]

    def change(self, weight: str) -> Array | None:
        """What the adapter adds to this weight, f64 in the weight's shape; None if it leaves it alone."""
        if weight not in self.modules:
            return None
        module, factors = self.modules[weight]
        return self.strength * lokr_difference(factors, module.shape)


def model_modules(config: ModelConfig) -> Iterator[Module]:
    """Every module of the UNet and the text encoder under its key in kohya's adapters."""
    for layer in unet_layers(config.unet):
        key = "lora_unet_" + layer.alias.replace(".", "_")
        yield Module(key, f"{config.unet.prefix}{layer.path}.weight", layer.shape)
    for layer in text_layers(config.text):
        key = "lora_te_" + layer.path.replace(".", "_")
        yield Module(key, f"{config.text.prefix}{layer.path}.weight", layer.shape)


def read_lokr(path: Path, strength: float, config: ModelConfig) -> Adaptation:
    """Opens an adapter for a model. Raises UsageError if it cannot be read or is for another model."""
    try:
        tensors = load_file(path)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror or error}") from None
    modules = {module.key: module for module in model_modules(config)}
    factors: dict[str, dict[str, Array]] = {}
    for name, tensor in tensors.items():
        key, _, suffix = name.partition(".")
        factors.setdefault(key, {})[suffix] = tensor.astype(np.float64)
    for key in factors:
        if key not in modules:
            raise UsageError(f"{path}: the model has no module {key}")
    return Adaptation(
        strength, {modules[key].weight: (modules[key], group) for key, group in factors.items()}
    )


def lokr_difference(factors: Mapping[str, Array], shape: tuple[int, ...]) -> Array:
    """gamma kron(w1, w2) in `shape`; gamma = alpha / rank where a factor is decomposed, otherwise 1."""
    ranks = [len(factors[suffix]) for suffix in ("lokr_w2_b", "lokr_w1_b") if suffix in factors]
    gamma = float(factors["alpha"]) / ranks[0] if ranks else 1.0
    first, second = _first(factors), _second(factors)
    return gamma * np.kron(first, second.reshape(len(second), -1)).reshape(shape)


def _first(factors: Mapping[str, Array]) -> Array:
    if "lokr_w1" in factors:
        return factors["lokr_w1"]
    product: Array = factors["lokr_w1_a"] @ factors["lokr_w1_b"]
    return product


def _second(factors: Mapping[str, Array]) -> Array:
    if "lokr_w2" in factors:
        return factors["lokr_w2"]
    outer, inner = factors["lokr_w2_a"], factors["lokr_w2_b"]
    if "lokr_t2" in factors:
        tucker: Array = np.einsum("ijkl,ip,jr->prkl", factors["lokr_t2"], outer, inner)
        return tucker
    product: Array = outer @ inner
    return product
