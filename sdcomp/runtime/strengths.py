"""Strengths of live adapters: what a run may set of an artifact that was built with `--live`."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdcomp.errors import UsageError

STRENGTHS = "strengths"
"""Name of the input of every program that live adapters change."""

LARGEST = float(np.finfo(np.float32).max)

Strength = float | tuple[float, float]
"""Of a live adapter: of everything, or of the UNet and of the text encoder."""

Strengths = Mapping[str, Strength]
"""By name of the adapter; those that are left out have the strength that they were built with."""


def strength_pairs(manifest: Mapping[str, Any], wanted: Strengths) -> dict[str, tuple[float, float]]:
    """Name to strength of the UNet and of the text encoder, of every live adapter of an artifact, in order.

    Raises UsageError for a name that no live adapter has, and for a strength that f32 cannot hold.
    """
    pairs = {
        adapter["name"]: (float(adapter["strength"]), float(adapter["te_strength"]))
        for adapter in manifest.get("adapters", ())
        if adapter.get("live")
    }
    for name, strength in wanted.items():
        if name not in pairs:
            raise UsageError(f"adapter {name}: {_known(list(pairs))}")
        pair = strength if isinstance(strength, tuple) else (strength, strength)
        if not all(abs(value) <= LARGEST for value in pair):
            raise UsageError(f"adapter {name}: its strength must be a finite f32 number, found {strength}")
        pairs[name] = pair
    return pairs


def strength_vector(pairs: Mapping[str, tuple[float, float]]) -> NDArray[np.float32]:
    """The input `strengths` of the programs."""
    return np.array(list(pairs.values()), np.float32).reshape(-1)


def _known(names: Sequence[str]) -> str:
    if not names:
        return "this artifact has no live adapters; build it with --live FILE to set a strength at run time"
    return f"no live adapter of this artifact has this name; it has {', '.join(names)}"
