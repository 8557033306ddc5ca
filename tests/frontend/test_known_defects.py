"""What stable-diffusion.cpp (97d2990) gets wrong in LoKr files, with the right answers in f64 numpy.

Each case is a file that it aborts on, applies wrongly, or leaves out, linear and as a convolution.
"""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from sdcomp.errors import AdapterError
from sdcomp.frontend.adapters import open_adapter
from sdcomp.frontend.adapters.aliases import UNET, Target, alias_table
from sdcomp.frontend.adapters.match import match_aliases
from sdcomp.frontend.weights import WeightSource
from sdcomp.ir.interpret import evaluate
from tests.frontend.adapter_case import BOUND, Tensors, changed, dora, random, scalar
from tests.passes.graphs import Array, error, weight


def f64(array: Array) -> Array:
    return array.astype(np.float64)


def kron(first: Array, second: Array, kernel: tuple[int, ...] = ()) -> Array:
    """First[a, b] second[c, d, ...] at [a K + c, b N + d, ...]."""
    second = second.reshape(len(second), -1, *kernel)
    joined = np.einsum("ab,cd...->acbd...", f64(first), f64(second))
    return joined.reshape(len(first) * len(second), -1, *kernel)


@pytest.mark.parametrize("kernel", [(), (3, 3)])
def test_factored_w2(kernel: tuple[int, ...], tmp_path: Path) -> None:
    """Its linear branch multiplies w2_b by w2_a in the wrong order and aborts."""
    first, a, b = random(3, 2), random(4, 2), random(2, 5 * int(np.prod(kernel)))
    before = random(12, 10, *kernel, seed=1)
    tensors = {"lokr_w1": first, "lokr_w2_a": a, "lokr_w2_b": b, "alpha": scalar(1)}
    expected = before + 0.5 * kron(first, f64(a) @ b, kernel)
    assert error(changed(tmp_path, tensors, before), expected) < BOUND


@pytest.mark.parametrize("kernel", [(), (3, 3)])
def test_factored_w1(kernel: tuple[int, ...], tmp_path: Path) -> None:
    """It takes the rank of w1_a and w1_b for sides of w1."""
    a, b, second = random(6, 2), random(2, 4), random(4, 5, *kernel)
    before = random(24, 20, *kernel, seed=1)
    tensors = {"lokr_w1_a": a, "lokr_w1_b": b, "lokr_w2": second, "alpha": scalar(1)}
    expected = before + 0.5 * kron(f64(a) @ b, second, kernel)
    assert error(changed(tmp_path, tensors, before), expected) < BOUND


def test_convolution_with_whole_w2(tmp_path: Path) -> None:
    """It pairs the sides of w1 with the kernel's: as many elements, silently wrong."""
    first, second, before = random(3, 2), random(4, 5, 3, 3), random(12, 10, 3, 3, seed=1)
    found = changed(tmp_path, {"lokr_w1": first, "lokr_w2": second}, before)
    wrong = np.kron(f64(first)[None, None], f64(second)).reshape(before.shape)
    assert error(found, before + kron(first, second, (3, 3))) < BOUND
    assert error(found, before + wrong) > 0.1


@pytest.mark.parametrize("kernel", [(), (3, 3)])
def test_rank_1(kernel: tuple[int, ...], tmp_path: Path) -> None:
    """Its tensors drop axes of 1, so that it divides alpha by another side than the rank."""
    first, a, b = random(3, 2), random(4, 1), random(1, 5 * int(np.prod(kernel)))
    before = random(12, 10, *kernel, seed=1)
    tensors = {"lokr_w1": first, "lokr_w2_a": a, "lokr_w2_b": b, "alpha": scalar(0.5)}
    expected = before + 0.5 * kron(first, f64(a) @ b, kernel)
    assert error(changed(tmp_path, tensors, before), expected) < BOUND


def test_tucker(tmp_path: Path) -> None:
    """It does not know lokr_t2, and leaves the module out."""
    first, core, a, b = random(3, 2), random(2, 2, 3, 3), random(2, 4), random(2, 5)
    before = random(12, 10, 3, 3, seed=1)
    tensors = {"lokr_w1": first, "lokr_t2": core, "lokr_w2_a": a, "lokr_w2_b": b, "alpha": scalar(1)}
    second = np.einsum("ijuv,ip,jq->pquv", *map(f64, (core, a, b)))
    assert error(changed(tmp_path, tensors, before), before + 0.5 * kron(first, second, (3, 3))) < BOUND


def test_dora(tmp_path: Path) -> None:
    """It does not know dora_scale, and applies the difference alone."""
    first, second, before = random(3, 2), random(4, 5), random(12, 10, seed=1)
    lengths = np.abs(random(12, 1)) + 0.5
    found = changed(tmp_path, {"lokr_w1": first, "lokr_w2": second, "dora_scale": lengths}, before)
    assert error(found, dora(before, kron(first, second), lengths, 0, 1)) < BOUND


def applied(folder: Path, file: dict[str, Array], targets: dict[str, Target], before: Array) -> Array:
    """`before`, whose modules are `targets` by name, with the file applied."""
    save_file(file, folder / "adapter.safetensors")
    aliases = alias_table([(UNET, [((name,), target) for name, target in targets.items()])])
    with open_adapter(folder / "adapter.safetensors") as adapter:
        (updates,) = match_aliases([adapter], aliases, 768).updates.values()
        node = weight("w", before.shape)
        for update in updates:
            node = update(node)
        return evaluate(node, WeightSource(Tensors({"w": before}), [adapter]).read_weight)


def test_parts_of_one_convolution(tmp_path: Path) -> None:
    """It joins query, key and value of linear layers only; here each changes its own rows, the key none."""
    before, file, targets = random(36, 10, 3, 3, seed=1), {}, {}
    expected = f64(before)
    for index, name in enumerate("qkv"):
        targets[name] = Target("w", (12, 10, 3, 3), False, rows=(12 * index, 12 * index + 12))
        if name != "k":
            first, second = random(3, 2, seed=index), random(4, 5, 3, 3, seed=index)
            file |= {f"{name}.lokr_w1": first, f"{name}.lokr_w2": second}
            expected[12 * index : 12 * index + 12] += kron(first, second, (3, 3))
    assert error(applied(tmp_path, file, targets, before), expected) < BOUND


def test_lokr_beside_a_lora(tmp_path: Path) -> None:
    """It applies the first kind that it finds for a weight, and drops the others."""
    first, second, up, down = random(3, 2), random(4, 5), random(12, 2, seed=2), random(2, 10, seed=2)
    before = random(12, 10, seed=1)
    file = {"unet.a.lokr_w1": first, "unet.a.lokr_w2": second}
    file |= {"lora_unet_a.lora_up.weight": up, "lora_unet_a.lora_down.weight": down}
    expected = before + kron(first, second) + f64(up) @ down
    assert error(applied(tmp_path, file, {"a": Target("w", (12, 10), False)}, before), expected) < BOUND


def test_shapes_are_checked(tmp_path: Path) -> None:
    """It multiplies what it finds: here as many elements as the weight has, but other sides."""
    file = {"unet.a.lokr_w1": random(2, 3), "unet.a.lokr_w2": random(5, 4)}
    with pytest.raises(AdapterError, match=r"'unet\.a': the weight is \[12, 10\], but the factors"):
        applied(tmp_path, file, {"a": Target("w", (12, 10), False)}, random(12, 10))
