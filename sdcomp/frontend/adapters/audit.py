"""Reads the factors of an adapter once, before anything is built: numbers that no weight can come of."""

from collections.abc import Iterable, Mapping
from math import prod

import numpy as np

from sdcomp.frontend.adapters.aliases import Target
from sdcomp.frontend.adapters.reader import Adapter

LARGEST = float(np.finfo(np.float32).max)


def check_values(adapters: Iterable[Adapter], aliases: Mapping[str, Target]) -> None:
    """Checks the factors of all modules that the model has, whose sizes must have been checked before.

    Raises AdapterError for NaN and infinity, and for factors so large that a product of them leaves f32.
    """
    for adapter in adapters:
        for group in adapter.groups:
            if group.module not in aliases:
                continue
            largest = [_largest(adapter, group.key(suffix)) for suffix in group.factors]
            if prod(max(1.0, value) for value in largest) > LARGEST:
                reached = " and ".join(f"{value:.3g}" for value in largest)
                raise group.error(
                    f"its factors reach {reached}, so that their product overflows; "
                    "the file is damaged or hostile"
                )


def _largest(adapter: Adapter, name: str) -> float:
    """The largest magnitude in a factor."""
    values = adapter.read(name)
    return max(float(values.max()), -float(values.min()))
