"""Philox noise: the algorithm's published vectors, the values of a GPU, the seeds of a batch."""

import numpy as np
import pytest

from sdcomp.errors import UsageError
from sdcomp.runtime.rng import BatchNoise, PhiloxGenerator, _box_muller, philox


@pytest.mark.parametrize(
    ("counter", "seed", "words"),
    [
        ((0, 0, 0, 0), 0, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, 0xFFFFFFFF_FFFFFFFF, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            0x299F31D0_A4093822,
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_known_answers_of_random123(counter, seed, words):
    assert tuple(int(word) for word in philox(counter, seed)) == words


def test_values_of_torch_on_a_gpu():
    generator = PhiloxGenerator(42)
    first = [0.194019, 2.161374, -0.172051, 0.84906, -1.924399, 0.652985, -0.649441, -0.817525]
    np.testing.assert_allclose(generator.normal((8,)), first, atol=1e-6)
    np.testing.assert_allclose(
        generator.normal((2, 2)), [[0.139138, -0.108216], [-0.717422, 0.756649]], atol=1e-6
    )


def _box_muller_of_words(seed, call, element):
    """One element by the textbook formula, with exact constants."""
    first, second = (int(word) for word in philox((call, 0, element, 0), seed)[:2])
    radius = np.sqrt(-2 * np.log((first + 0.5) / 2**32))
    return radius * np.sin((second + 0.5) / 2**32 * 2 * np.pi)


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1, 2**32, 2**64 - 1])
def test_elements_agree_with_the_formula_one_by_one(seed):
    generator = PhiloxGenerator(seed)
    for call in range(2):
        expected = [_box_muller_of_words(seed, call, element) for element in range(60)]
        np.testing.assert_allclose(generator.normal((3, 4, 5)).ravel(), expected, rtol=2e-6, atol=2e-6)


def test_the_rarest_words_give_finite_numbers():
    """Words 0 and 2^32 - 1 stand for the middles of the first and the last of 2^32 intervals."""
    words = np.array([0, 2**32 - 1], dtype=np.uint64)
    quarter = np.full(2, 2**30, dtype=np.uint64)
    expected = [np.sqrt(66 * np.log(2)), np.sqrt(-2 * np.log1p(-(2.0**-33)))]
    np.testing.assert_allclose(_box_muller(words, quarter), expected, rtol=1e-6)


def test_dtype_shape_and_moments():
    noise = PhiloxGenerator(7).normal((4, 128, 128))
    assert noise.dtype == np.float32
    assert noise.shape == (4, 128, 128)
    assert abs(noise.mean()) < 0.02
    assert abs(noise.std() - 1) < 0.02


def test_the_high_half_of_the_seed_matters():
    assert not np.array_equal(PhiloxGenerator(5).normal((8,)), PhiloxGenerator(5 + 2**32).normal((8,)))


def test_batch_rows_are_the_pictures_of_the_following_seeds():
    noise = BatchNoise(2**64 - 2, (3, 4, 2, 2))
    singles = [PhiloxGenerator(2**64 - 2), PhiloxGenerator(2**64 - 1), PhiloxGenerator(0)]
    for _ in range(2):
        np.testing.assert_array_equal(noise(), np.stack([single.normal((4, 2, 2)) for single in singles]))


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_seeds_out_of_range_are_refused(seed):
    with pytest.raises(UsageError, match=f"seed {seed} is out of range; use a whole number from 0 to 1844"):
        BatchNoise(seed, (1, 4, 2, 2))
