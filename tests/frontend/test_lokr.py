"""LoKr deltas of every stored form, against f64 numpy that follows the definition, and against LyCORIS."""

from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lycoris.functional import lokr
from safetensors.torch import save_file

from sdcomp.frontend.adapters import open_adapter
from sdcomp.frontend.adapters.lokr import lokr_delta
from sdcomp.frontend.weights import WeightSource
from sdcomp.ir.graph import Node
from sdcomp.ir.interpret import evaluate
from sdcomp.passes.fold_kronecker import FoldKronecker
from tests.passes.graphs import Array, error, module

BOUND = 1e-6
KERNEL = (3, 3)

Shapes = dict[str, tuple[int, ...]]

FORMS: dict[str, tuple[tuple[int, ...], Shapes]] = {
    "linear, both whole": ((12, 10), {"w1": (3, 2), "w2": (4, 5)}),
    "linear, w1 larger than w2": ((12, 10), {"w1": (6, 5), "w2": (2, 2)}),
    "linear, w2 of rank 3": ((24, 30), {"w1": (3, 2), "w2_a": (8, 3), "w2_b": (3, 15)}),
    "linear, w2 of rank 1": ((24, 30), {"w1": (3, 2), "w2_a": (8, 1), "w2_b": (1, 15)}),
    "linear, w1 of rank 2": ((24, 30), {"w1_a": (6, 2), "w1_b": (2, 5), "w2": (4, 6)}),
    "linear, both of rank 2": ((24, 30), {"w1_a": (6, 2), "w1_b": (2, 5), "w2_a": (4, 2), "w2_b": (2, 6)}),
    "linear, 1x1 factors": ((12, 10), {"w1": (3, 2), "w2": (4, 5, 1, 1)}),
    "convolution, both whole": ((12, 10, *KERNEL), {"w1": (3, 2), "w2": (4, 5, *KERNEL)}),
    "convolution, flattened w2": ((12, 10, *KERNEL), {"w1": (3, 2), "w2": (4, 45)}),
    "convolution, flattened rank 2": (
        (12, 10, *KERNEL),
        {"w1": (3, 2), "w2_a": (4, 2), "w2_b": (2, 45)},
    ),
    "convolution, rank 2": ((12, 10, *KERNEL), {"w1": (3, 2), "w2_a": (4, 2), "w2_b": (2, 5, *KERNEL)}),
    "convolution, both of rank 2": (
        (12, 10, *KERNEL),
        {"w1_a": (3, 2), "w1_b": (2, 2), "w2_a": (4, 2), "w2_b": (2, 45)},
    ),
    "convolution, Tucker": (
        (12, 10, 3, 2),
        {"w1": (3, 2), "t2": (2, 2, 3, 2), "w2_a": (2, 4), "w2_b": (2, 5)},
    ),
    "1x1 convolution, matrices": ((12, 10, 1, 1), {"w1": (3, 2), "w2": (4, 5)}),
    "1x1 convolution, kernels": ((12, 10, 1, 1), {"w1": (3, 2), "w2": (4, 5, 1, 1)}),
    "1x1 convolution, rank 2": ((12, 10, 1, 1), {"w1": (3, 2), "w2_a": (4, 2), "w2_b": (2, 5, 1, 1)}),
}


def random_factors(shapes: Shapes, seed: int = 0, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in shapes.items()}


def delta_of(
    folder: Path, factors: dict[str, Any], shape: tuple[int, ...], **scalars: float
) -> tuple[Array, Array]:
    """The compiler's delta as it is built, and after fold_kronecker, from a file with these tensors."""
    tensors = {f"m.lokr_{name}": value for name, value in factors.items()}
    tensors |= {f"m.{name}": torch.tensor(value) for name, value in scalars.items()}
    path = folder / "lokr.safetensors"
    save_file(tensors, path)
    with open_adapter(path) as adapter:
        (group,) = adapter.groups
        delta = lokr_delta(group, "adapter0", shape)
        assert delta.shape == shape
        source = WeightSource({}, [adapter])  # type: ignore[arg-type]
        folded: Node = FoldKronecker().apply(module(delta=delta)).graphs[0].outputs["delta"]
        return evaluate(delta, source.read_weight), evaluate(folded, source.read_weight)


def reference(factors: dict[str, Any], shape: tuple[int, ...], gamma: float) -> Array:
    """The definition in f64: delta[a K + c, b N + d, ...] = gamma w1[a, b] w2[c, d, ...]."""
    f = {name: value.to(torch.float64).numpy() for name, value in factors.items()}
    w1 = f["w1"] if "w1" in f else f["w1_a"] @ f["w1_b"]
    if "t2" in f:
        w2 = np.einsum("ijuv,ip,jq->pquv", f["t2"], f["w2_a"], f["w2_b"])
    elif "w2" in f:
        w2 = f["w2"]
    else:
        w2 = np.tensordot(f["w2_a"], f["w2_b"], 1)
    w2 = w2.reshape(len(w2), -1, *shape[2:])
    delta = np.zeros((w1.shape[0] * w2.shape[0], w1.shape[1] * w2.shape[1], *shape[2:]))
    for a in range(w1.shape[0]):
        for b in range(w1.shape[1]):
            rows, columns = (slice(i * n, i * n + n) for i, n in zip((a, b), w2.shape, strict=False))
            delta[rows, columns] = gamma * w1[a, b] * w2
    return delta.reshape(shape)


def rank_of(shapes: Shapes) -> int | None:
    return (shapes.get("w2_b") or shapes.get("w1_b") or (None,))[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("form", FORMS)
def test_delta_follows_the_definition(form: str, dtype: torch.dtype, tmp_path: Path) -> None:
    shape, shapes = FORMS[form]
    factors, rank = random_factors(shapes, dtype=dtype), rank_of(shapes)
    expected = reference(factors, shape, 1.0 if rank is None else 4.0 / rank)
    for found in delta_of(tmp_path, factors, shape, alpha=4.0):
        assert found.dtype == np.float32
        assert error(found, expected) < BOUND


@pytest.mark.parametrize("form", FORMS)
def test_delta_equals_lycoris(form: str, tmp_path: Path) -> None:
    """In Tucker form LyCORIS takes axis 1 of w2_a for the rank, which it is not: gamma makes up for that."""
    shape, shapes = FORMS[form]
    factors = random_factors(shapes)
    gamma = 4.0 * shapes["w2_a"][1] / shapes["t2"][0] if "t2" in shapes else 4.0
    names = ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2")
    expected = lokr.diff_weight(*(factors.get(name) for name in names), gamma=gamma)
    found, _ = delta_of(tmp_path, factors, shape, alpha=4.0)
    assert error(found, expected.reshape(shape).numpy()) < BOUND


@pytest.mark.parametrize("alpha", [float("inf"), float("nan"), 1e10, 0.5])
def test_alpha_is_ignored_where_both_factors_are_whole(alpha: float, tmp_path: Path) -> None:
    shape, shapes = FORMS["linear, both whole"]
    factors = random_factors(shapes)
    found, _ = delta_of(tmp_path, factors, shape, alpha=alpha)
    assert error(found, reference(factors, shape, 1.0)) < BOUND


SCALES: dict[str, tuple[str, dict[str, float], float]] = {
    "no alpha": ("linear, w2 of rank 3", {}, 1.0),
    "alpha over the rank of w2": ("linear, w2 of rank 3", {"alpha": 6.0}, 2.0),
    "alpha over rank 1": ("linear, w2 of rank 1", {"alpha": 6.0}, 6.0),
    "alpha over the rank of w1": ("linear, w1 of rank 2", {"alpha": 6.0}, 3.0),
    "Tucker rank is t2's": ("convolution, Tucker", {"alpha": 6.0}, 3.0),
    "scale replaces alpha": ("linear, w2 of rank 3", {"alpha": 6.0, "scale": 0.25}, 0.25),
    "scale, both whole": ("linear, both whole", {"alpha": 6.0, "scale": 0.25}, 0.25),
    "scalar multiplies": ("linear, w2 of rank 3", {"alpha": 6.0, "scalar": -0.5}, -1.0),
    "scalar, both whole": ("linear, both whole", {"alpha": 6.0, "scalar": 3.0}, 3.0),
}


@pytest.mark.parametrize("case", SCALES)
def test_scale(case: str, tmp_path: Path) -> None:
    form, scalars, gamma = SCALES[case]
    shape, shapes = FORMS[form]
    factors = random_factors(shapes)
    found, _ = delta_of(tmp_path, factors, shape, **scalars)
    assert error(found, reference(factors, shape, gamma)) < BOUND


def test_scalar_is_ignored_beside_training_state(tmp_path: Path) -> None:
    shape, shapes = FORMS["linear, both whole"]
    factors = random_factors(shapes)
    found, _ = delta_of(tmp_path, factors, shape, scalar=3.0, _lycoris_lokr_training_version=1.0)
    assert error(found, reference(factors, shape, 1.0)) < BOUND


@st.composite
def _forms(draw: st.DrawFn) -> tuple[tuple[int, ...], Shapes]:
    l, m, k, n, r = (draw(st.integers(1, 5)) for _ in range(5))
    kernel = draw(st.sampled_from(((), (1, 1), (3, 3), (1, 2))))
    shapes: Shapes = draw(st.sampled_from(({"w1": (l, m)}, {"w1_a": (l, r), "w1_b": (r, m)})))
    seconds: list[Shapes] = [
        {"w2": (k, n * prod(kernel))},
        {"w2_a": (k, r), "w2_b": (r, n * prod(kernel))},
    ]
    if kernel:
        seconds.append({"w2": (k, n, *kernel)})
        seconds.append({"w2_a": (k, r), "w2_b": (r, n, *kernel)})
        seconds.append({"t2": (r, r, *kernel), "w2_a": (r, k), "w2_b": (r, n)})
    return (l * k, m * n, *kernel), {**shapes, **draw(st.sampled_from(seconds))}


@given(_forms(), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_any_form_follows_the_definition(tmp_path_factory: Any, form: tuple[Any, Shapes], seed: int) -> None:
    shape, shapes = form
    factors, rank = random_factors(shapes, seed), rank_of(shapes)
    expected = reference(factors, shape, 1.0 if rank is None else 2.0 / rank)
    for found in delta_of(tmp_path_factory.mktemp("lokr"), factors, shape, alpha=2.0):
        assert error(found, expected) < BOUND
