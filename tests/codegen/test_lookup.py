"""Embedding look-up, exact, and the timestep embedding against its definition."""

from functools import partial

import numpy as np
import pytest

from sdcomp.codegen.kernels.rows import Gather, TimestepEmbedding
from sdcomp.codegen.targets import Target
from sdcomp.ir.types import Array, DType
from tests.codegen.case import ROUNDING, Case, Compiled, gapped, isa, random_normal


def build_gather(indices: list[int], channels: int, dtype: str, gap: int, target: Target) -> Case:
    """Indices beyond the table read its first or last row: they come from a caller, and must not read
    elsewhere.
    """
    table = random_normal(1, 7, channels).astype(DType(dtype).numpy)
    expected = table.astype(np.float64)[np.clip(indices, 0, 6)]
    kernel = Gather(len(indices), 7, channels, dtype, channels + gap)
    return Case(kernel, [table, np.array(indices, np.int32)], 2, gapped(expected, channels + gap), 0.0)


def build_timestep(times: list[float], channels: int, max_period: float, gap: int, target: Target) -> Case:
    """Ho et al. 2020, with the cosines first. Angles up to 1000 are reduced in f64, so only the result is
    rounded.
    """
    given: Array = np.array(times, np.float32)
    half = channels // 2
    angles = given.astype(np.float64)[:, None] * max_period ** (-np.arange(half) / half)
    expected = np.concatenate([np.cos(angles), np.sin(angles)], 1)
    kernel = TimestepEmbedding(len(times), channels, max_period, channels + gap)
    return Case(kernel, [given], 1, gapped(expected, channels + gap), ROUNDING)


BUILDS = {
    "gather-one": partial(build_gather, [3], 1, "f32", 0),
    "gather-half": partial(build_gather, [6, 0, 2, 2], 33, "f16", 0),
    "gather-gap": partial(build_gather, [1, 5], 64, "f16", 8),
    "gather-f32": partial(build_gather, [5, 4, 3], 65, "f32", 3),
    "gather-outside": partial(build_gather, [-1, 7, 2**31 - 1, -(2**31), 6], 20, "f16", 0),
    "timestep-one": partial(build_timestep, [999.0], 2, 10000.0, 0),
    "timestep": partial(build_timestep, [0.0, 1.0, 431.5, 999.0], 320, 10000.0, 5),
    "timestep-period": partial(build_timestep, [17.0], 6, 100.0, 0),
    "timestep-period-near": partial(build_timestep, [17.0], 6, 100.4, 0),
}


@pytest.fixture(scope="module")
def compiled(request: pytest.FixtureRequest) -> Compiled:
    return Compiled.once(BUILDS, request.param)


@isa
@pytest.mark.parametrize("name", BUILDS)
def test_lookup(compiled: Compiled, name: str) -> None:
    compiled.check(name)
