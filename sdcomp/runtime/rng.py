"""Gaussian noise that a seed determines: Philox4x32-10 (Salmon et al. 2011) as torch draws it on a GPU.

The layout and the constants are those of A1111's `rng_philox.py`, so a seed means the picture that users of
A1111 ("NV" noise) and stable-diffusion.cpp ("cuda" noise) expect: element i of call c has counter
(c, 0, i, 0).
"""

import math

import numpy as np
from numpy.typing import NDArray

from sdcomp.errors import UsageError

SEEDS = 1 << 64

_ROUNDS = 10
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_WORD = 0xFFFFFFFF
_UNIT = float(np.float32(2.3283064e-10))
_TURN = float(np.float32(2.3283064e-10 * 6.2831855))


class PhiloxGenerator:
    """A stream of normal numbers. Each call to `normal` takes the next part of the stream."""

    def __init__(self, seed: int) -> None:
        """Raises UsageError unless 0 <= seed < 2^64."""
        if not 0 <= seed < SEEDS:
            raise UsageError(f"seed {seed} is out of range; use a whole number from 0 to {SEEDS - 1}")
        self._seed = seed
        self._calls = 0

    def normal(self, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Independent normal numbers (mean 0, variance 1) of this shape, in row-major order."""
        count = math.prod(shape)
        words = philox((self._calls, 0, np.arange(count, dtype=np.uint64), 0), self._seed)
        self._calls += 1
        return _box_muller(words[0], words[1]).reshape(shape)


class BatchNoise:
    """Noise for a batch: row b has the seed + b (modulo 2^64), so a picture does not depend on its batch."""

    def __init__(self, seed: int, shape: tuple[int, ...]) -> None:
        """`shape` is (batch, ...). Raises UsageError unless 0 <= seed < 2^64."""
        first = PhiloxGenerator(seed)
        self._generators = [first, *(PhiloxGenerator((seed + row) % SEEDS) for row in range(1, shape[0]))]
        self._row_shape = shape[1:]

    def __call__(self) -> NDArray[np.float32]:
        """The next noise, float32 of the whole shape: call 0 starts a picture, the others serve its steps."""
        return np.stack([generator.normal(self._row_shape) for generator in self._generators])


def philox(
    counter: tuple[int | NDArray[np.uint64], ...], seed: int
) -> tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.uint64], NDArray[np.uint64]]:
    """Four 32-bit words (in uint64) for each counter of four 32-bit words, under the 64-bit key `seed`."""
    x, y, z, w = (np.asarray(word, dtype=np.uint64) for word in np.broadcast_arrays(*counter))
    keys = (seed & _WORD, seed >> 32)
    word, half = np.uint64(_WORD), np.uint64(32)
    for round_number in range(_ROUNDS):
        low_key, high_key = (
            np.uint64((key + round_number * step) & _WORD) for key, step in zip(keys, _KEY_STEPS, strict=True)
        )
        left, right = x * np.uint64(_MULTIPLIERS[0]), z * np.uint64(_MULTIPLIERS[1])
        x, y, z, w = (right >> half) ^ y ^ low_key, right & word, (left >> half) ^ w ^ high_key, left & word
    return x, y, z, w


def _box_muller(first: NDArray[np.uint64], second: NDArray[np.uint64]) -> NDArray[np.float32]:
    """One normal number from two 32-bit words; float64 inside and float32 constants, as A1111 computes it."""
    radius_draw = first * _UNIT + _UNIT / 2
    angle = second * _TURN + _TURN / 2
    normal: NDArray[np.float32] = (np.sqrt(-2.0 * np.log(radius_draw)) * np.sin(angle)).astype(np.float32)
    return normal
