"""The numpy references of the op table against torch, and diffusers where torch has no such function."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from diffusers.models.embeddings import get_timestep_embedding
from torch.nn import functional

from sdcomp.ir.graph import Attribute
from sdcomp.ir.ops import OPS

torch.set_num_threads(1)

Array = npt.NDArray[Any]
BOUND = 1e-12


def draw(*shape: int) -> Array:
    return np.random.default_rng(sum(shape)).standard_normal(shape)


def run(op: str, *operands: Array, **attributes: Attribute) -> Array:
    reference = OPS[op].reference
    assert reference is not None
    return reference(operands, attributes)


def error(found: Array, expected: torch.Tensor) -> float:
    assert found.shape == tuple(expected.shape)
    return float(np.linalg.norm(found - expected.numpy()) / np.linalg.norm(expected.numpy()))


def tensor(x: Array) -> torch.Tensor:
    return torch.from_numpy(x.copy())


def channels_first(x: Array) -> torch.Tensor:
    return tensor(x).permute(0, 3, 1, 2)


@pytest.mark.parametrize("groups", [1, 4, 8])
def test_group_norm(groups: int) -> None:
    x, gamma, beta = 3 * draw(2, 5, 7, 8) + 2, draw(8), draw(8) + 1
    found = run("group_norm", x, gamma, beta, groups=groups, eps=1e-5)
    expected = functional.group_norm(channels_first(x), groups, tensor(gamma), tensor(beta), 1e-5)
    assert error(found, expected.permute(0, 2, 3, 1)) <= BOUND


def test_layer_norm() -> None:
    x, gamma, beta = draw(2, 5, 8) + 3, draw(8), draw(8) + 1
    found = run("layer_norm", x, gamma, beta, eps=1e-5)
    assert error(found, functional.layer_norm(tensor(x), (8,), tensor(gamma), tensor(beta), 1e-5)) <= BOUND


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("padding", [(0, 0, 0, 0), (1, 1, 1, 1), (0, 0, 1, 1), (2, 0, 1, 3)])
def test_conv2d(size: int, stride: int, padding: tuple[int, int, int, int]) -> None:
    x, w = draw(2, 8, 9, 3), draw(5, 3, size, size)
    top, left, bottom, right = padding
    found = run("conv2d", x, w, stride=stride, padding=padding)
    padded = functional.pad(channels_first(x), (left, right, top, bottom))
    expected = functional.conv2d(padded, tensor(w), stride=stride)
    assert error(found, expected.permute(0, 2, 3, 1)) <= BOUND


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("queries", "keys"), [((2, 6, 12), (2, 6, 12)), ((1, 6, 12), (3, 6, 12))])
def test_attention(causal: bool, queries: tuple[int, ...], keys: tuple[int, ...]) -> None:
    q, k, v = draw(*queries), draw(*keys), draw(*keys) + 1
    found = run("attention", q, k, v, heads=3, causal=causal)
    batch = max(len(q), len(k))
    split = [tensor(a).expand(batch, -1, -1).unflatten(2, (3, 4)).transpose(1, 2) for a in (q, k, v)]
    expected = functional.scaled_dot_product_attention(*split, is_causal=causal)
    assert error(found, expected.transpose(1, 2).flatten(2)) <= BOUND


def test_attention_over_another_number_of_keys() -> None:
    q, k, v = draw(2, 6, 8), draw(2, 3, 8), draw(2, 3, 8) + 1
    found = run("attention", q, k, v, heads=1, causal=False)
    assert error(found, functional.scaled_dot_product_attention(tensor(q), tensor(k), tensor(v))) <= BOUND


def test_timestep_embedding() -> None:
    """diffusers computes in f32, so the bound is f32's at an angle of 999 radians."""
    t = np.array([0.0, 1.0, 431.5, 999.0])
    found = run("timestep_embedding", t, channels=32, max_period=10000.0)
    expected = get_timestep_embedding(tensor(t), 32, flip_sin_to_cos=True, downscale_freq_shift=0)
    assert error(found, expected) <= 5e-5


def test_matmul() -> None:
    x, w = draw(2, 3, 8), draw(5, 8)
    assert error(run("matmul", x, w), functional.linear(tensor(x), tensor(w))) <= BOUND


@pytest.mark.parametrize(
    ("left", "right"), [((2, 3), (4, 5)), ((2, 3), (4, 5, 3, 3)), ((2, 3, 3, 3), (4, 5))]
)
def test_kron(left: tuple[int, ...], right: tuple[int, ...]) -> None:
    a, b = draw(*left), draw(*right)
    rank = max(a.ndim, b.ndim)
    wide = [tensor(t).reshape(t.shape + (1,) * (rank - t.ndim)) for t in (a, b)]
    assert error(run("kron", a, b), torch.kron(*wide)) <= BOUND


def quick_gelu(x: torch.Tensor) -> torch.Tensor:
    return x * torch.sigmoid(1.702 * x)


POINTWISE = {
    "silu": functional.silu,
    "gelu": functional.gelu,
    "quick_gelu": quick_gelu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "softmax": lambda x: torch.softmax(x, -1),
}


@pytest.mark.parametrize("op", POINTWISE)
def test_pointwise(op: str) -> None:
    x = np.linspace(-40, 40, 161).reshape(7, 23)
    assert error(run(op, x), POINTWISE[op](tensor(x))) <= BOUND


@pytest.mark.parametrize("op", POINTWISE)
def test_pointwise_widens_f16(op: str) -> None:
    x = np.linspace(-4, 4, 16, dtype=np.float16)
    found = run(op, x)
    assert found.dtype == np.float32
    assert error(found, POINTWISE[op](tensor(x.astype(np.float32)))) <= 1e-6


def test_upsample_nearest() -> None:
    x = draw(2, 3, 4, 5)
    expected = functional.interpolate(channels_first(x), scale_factor=2, mode="nearest")
    assert error(run("upsample_nearest", x, scale=2), expected.permute(0, 2, 3, 1)) == 0


def test_pad() -> None:
    x = draw(2, 3, 4, 5)
    expected = functional.pad(channels_first(x), (2, 4, 1, 3)).permute(0, 2, 3, 1)
    assert error(run("pad", x, padding=(1, 2, 3, 4)), expected) == 0


def test_cast_rounds_to_nearest_even() -> None:
    x = np.float32([1 + 2**-11, 1 + 3 * 2**-11, 70000, 1e-8, -0.1])
    with np.errstate(over="ignore"):
        found = run("cast", x, dtype="f16")
    assert np.array_equal(found, tensor(x).half().numpy())


@pytest.mark.parametrize("axes", [(0,), (1, 2), (0, 1, 2)])
def test_norm(axes: tuple[int, ...]) -> None:
    x = draw(3, 4, 5)
    assert (
        error(run("norm", x, axes=axes), torch.linalg.vector_norm(tensor(x), dim=axes, keepdim=True)) <= BOUND
    )


def test_norm_of_large_f32_values() -> None:
    assert run("norm", np.full(4, 1e30, np.float32), axes=(0,)) == np.float32(2e30)


@pytest.mark.parametrize("blocks", [(3, 3), (1, 3), (3, 1)])
def test_block_matmul(blocks: tuple[int, int]) -> None:
    x, w = draw(blocks[0], 4, 5), draw(blocks[1], 2, 5)
    assert error(run("block_matmul", x, w), torch.matmul(tensor(x), tensor(w).mT)) <= BOUND


@pytest.mark.parametrize("side", [2, 3, 7])
def test_skew(side: int) -> None:
    x = draw(2, side * (side - 1) // 2)
    found = run("skew", x)
    assert np.array_equal(found, -found.transpose(0, 2, 1))
    assert np.array_equal(found[(slice(None), *np.triu_indices(side, 1))], x)


@pytest.mark.parametrize("scale", [0.1, 1, 30])
def test_cayley(scale: float) -> None:
    q = scale * run("skew", draw(2, 10))
    identity = torch.eye(5, dtype=torch.float64)
    found = run("cayley", q)
    assert error(found, (identity + tensor(q)) @ torch.linalg.inv(identity - tensor(q))) <= BOUND
    assert error(found @ found.transpose(0, 2, 1), identity.expand(2, 5, 5)) <= BOUND


def test_div_and_minimum() -> None:
    a, b = draw(3, 4), draw(4)
    assert error(run("div", a, b), tensor(a) / tensor(b)) <= BOUND
    assert error(run("minimum", a, b), torch.minimum(tensor(a), tensor(b))) == 0
    assert run("div", np.ones(1), np.zeros(1)) == np.inf
