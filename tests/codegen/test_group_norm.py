"""Group normalisation: each of its kernels against numpy in f64, and all of them together against torch's
group_norm.
"""

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pytest
import torch
from torch.nn import functional

from sdcomp.codegen.kernels.group_norm import GroupNormApply, GroupNormCombine, GroupNormStatistics
from sdcomp.codegen.targets import Target
from sdcomp.ir.types import Array
from tests.codegen.case import ROUNDING, Case, Compiled, gapped, isa, random_normal, relative_error


@dataclass(frozen=True)
class Shape:
    """x[batches, height, width, channels] around `mean` with a spread of 1, rows `channels + gap` apart."""

    height: int
    width: int
    channels: int
    groups: int
    batches: int = 1
    mean: float = 0.0
    gap: int = 0
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    activation: str | None = None
    eps: float = 1e-5

    @property
    def statistics(self) -> GroupNormStatistics:
        return GroupNormStatistics(
            self.batches, self.height * self.width, self.channels, self.channels, self.channels + self.gap
        )

    @property
    def combine(self) -> GroupNormCombine:
        return GroupNormCombine(self.statistics, self.groups, self.eps)

    @property
    def apply(self) -> GroupNormApply:
        return GroupNormApply(
            self.batches, self.height, self.width, self.channels, self.channels + self.gap,
            self.channels + self.gap, self.padding, self.activation,
        )  # fmt: skip

    @property
    def x(self) -> Array:
        x: Array = random_normal(1, self.batches, self.height, self.width, self.channels)
        return np.asarray(x + np.float32(self.mean))

    @property
    def parameters(self) -> tuple[Array, Array]:
        """gamma and beta."""
        return 1 + random_normal(2, self.channels) / 10, random_normal(3, self.channels) / 10

    def partials(self) -> Array:
        """[batches, chunks, 3, channels]: of each chunk of rows its first one, the mean of all minus the
        first, and the sum of squared deviations.
        """
        rows = self.x.astype(np.float64).reshape(self.batches, -1, self.channels)
        chunks = np.split(rows, self._cuts(), 1)
        parts = [
            (c[:, 0], (c - c[:, :1]).mean(1), ((c - c.mean(1, keepdims=True)) ** 2).sum(1)) for c in chunks
        ]
        return np.stack([np.stack(part, 1) for part in parts], 1)

    def factors(self, partials: Array) -> Array:
        """[batches, 3, channels]: what is subtracted from x, what that is multiplied with, and what is added.
        By a sum of squares, which f64 can afford.
        """
        sizes = [len(rows) for rows in np.array_split(np.arange(self.height * self.width), self._cuts())]
        rows = np.array(sizes, np.float64)[None, :, None]
        means, spreads = partials[:, :, 0] + partials[:, :, 1], partials[:, :, 2]
        count = self.height * self.width * self.channels / self.groups
        mean = self._per_group((rows * means).sum(1)) / count
        square = self._per_group((spreads + rows * means**2).sum(1)) / count
        scale = 1 / np.sqrt(square - mean**2 + self.eps)
        gamma, beta = (p.astype(np.float64) for p in self.parameters)
        rounded = mean.astype(np.float32).astype(np.float64)
        return np.stack([rounded, gamma * scale, beta - (mean - rounded) * gamma * scale], 1)

    def _cuts(self) -> list[int]:
        """Rows at which a chunk starts, but for the first."""
        return list(range(0, self.height * self.width, self.statistics.chunk_rows))[1:]

    def _per_group(self, values: Array) -> Array:
        """Sums over the channels of each group, for every channel of it."""
        size = self.channels // self.groups
        return np.repeat(values.reshape(self.batches, self.groups, size).sum(-1), size, 1)

    def result(self) -> Array:
        """torch's, in f64, with the border."""
        gamma, beta = (torch.from_numpy(p.astype(np.float64)) for p in self.parameters)
        x = torch.from_numpy(self.x.astype(np.float64)).permute(0, 3, 1, 2)
        normal = functional.group_norm(x, self.groups, gamma, beta, self.eps)
        if self.activation is not None:
            normal = functional.silu(normal)
        top, left, bottom, right = self.padding
        return functional.pad(normal, (left, right, top, bottom)).permute(0, 2, 3, 1).numpy()


def build_statistics(shape: Shape, target: Target) -> Case:
    """The first row may be a few spreads away from the mean: squared, that multiplies the roundings of the
    sums.
    """
    x = gapped(shape.x, shape.channels + shape.gap)
    return Case(shape.statistics, [x], 1, shape.partials(), 16 * ROUNDING)


def build_part(shape: Shape, target: Target) -> Case:
    """The first half of the channels, elsewhere than the others."""
    width = shape.channels // 2
    expected = shape.partials()
    expected[..., width:] = np.nan
    kernel = replace(shape.statistics, width=width, stride=width)
    return Case(kernel, [gapped(shape.x[..., :width], width)], 1, expected, 16 * ROUNDING)


def build_combine(shape: Shape, target: Target) -> Case:
    """In f64, to factors that f32 rounds."""
    partials = shape.partials().astype(np.float32)
    expected = shape.factors(partials.astype(np.float64))
    return Case(shape.combine, [partials, *shape.parameters], 3, expected, ROUNDING)


def build_apply(shape: Shape, target: Target) -> Case:
    """However large the mean is: x minus it is exact, and what is multiplied and added is as large as y. The
    activation adds a few roundings.
    """
    stride = shape.channels + shape.gap
    operands = [gapped(shape.x, stride), shape.factors(shape.partials()).astype(np.float32)]
    return Case(shape.apply, operands, 2, gapped(shape.result(), stride), 6 * ROUNDING)


SHAPES = {
    "one_row": Shape(1, 1, 32, 8),
    "one_channel_per_group": Shape(3, 5, 6, 6),
    "three_channels": Shape(4, 5, 3, 1),
    "odd_channels": Shape(5, 7, 33, 11, gap=3),
    "one_chunk": Shape(4, 4, 64, 32, activation="silu"),
    "partial_chunk": Shape(7, 9, 40, 8, batches=2, activation="silu", padding=(1, 1, 1, 1)),
    "most_chunks": Shape(33, 35, 8, 2, padding=(0, 0, 1, 1)),
    "border": Shape(2, 3, 20, 4, gap=12, padding=(3, 0, 1, 2)),
    "large_mean": Shape(24, 24, 36, 4, batches=2, mean=1e3),
    "large_negative_mean": Shape(9, 11, 65, 5, mean=-1e3, activation="silu", gap=1),
}
STAGES = {"statistics": build_statistics, "combine": build_combine, "apply": build_apply}
BUILDS = {
    f"{stage}-{name}": partial(build, shape)
    for name, shape in SHAPES.items()
    for stage, build in STAGES.items()
} | {f"part-{name}": partial(build_part, SHAPES[name]) for name in ("odd_channels", "partial_chunk")}


@pytest.fixture(scope="module")
def compiled(request: pytest.FixtureRequest) -> Compiled:
    return Compiled.once(BUILDS, request.param)


@isa
@pytest.mark.parametrize("name", BUILDS)
def test_group_norm(compiled: Compiled, name: str) -> None:
    compiled.check(name)


@isa
@pytest.mark.parametrize("name", SHAPES)
def test_deviations_do_not_cancel(compiled: Compiled, name: str) -> None:
    """Squared deviations alone: beside means of 1e3 they would vanish in the norm. From a bare sum of
    squares, which has 7 digits of 1e6, an error of about 1e-1 would remain; shifted data leaves the
    rounding of the chunk's sums.
    """
    found = compiled.run(f"statistics-{name}")[:, :, 2]
    assert relative_error(found, SHAPES[name].partials()[:, :, 2]) <= 16 * ROUNDING


@isa
@pytest.mark.parametrize("name", SHAPES)
def test_kernels_in_sequence(compiled: Compiled, name: str) -> None:
    """Real partials and factors handed from kernel to kernel."""
    shape = SHAPES[name]
    partials = compiled.run(f"statistics-{name}")
    factors = run_with(compiled, f"combine-{name}", 0, partials)
    found = run_with(compiled, f"apply-{name}", 1, factors)[..., : shape.channels]
    assert relative_error(found, shape.result()) <= 8 * ROUNDING


def run_with(compiled: Compiled, name: str, index: int, operand: Array) -> Array:
    """The case's output with another operand number `index`."""
    case = compiled.cases[name]
    operands = [*case.operands]
    operands[index] = operand
    return compiled.run_case(Case(case.kernel, operands, case.written, case.expected, case.bound))
