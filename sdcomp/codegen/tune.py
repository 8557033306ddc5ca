"""Measures what kernels cost on this machine, for `Costs`.

Each algorithm runs on a few shapes, chosen so that in each another part of the work outweighs what it does
elsewhere. Then non-negative times per element are fitted to all that was measured, with relative errors
squared: one for a product, which the same micro-kernel makes everywhere, and one for each other part of each
algorithm.
"""

import ctypes
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from sdcomp.codegen.convolution import UPSAMPLING, Convolution, forms, kernels, name
from sdcomp.codegen.costs import MEASURED, PARTS, PRODUCT, Costs, total_work
from sdcomp.codegen.jit import Jit, aligned_bytes
from sdcomp.codegen.kernels.base import Kernel
from sdcomp.codegen.kernels.movement import Resample
from sdcomp.codegen.kernels.winograd_input import WinogradInput
from sdcomp.codegen.targets import Target, host_name
from sdcomp.ir.types import Array

SHAPES = (
    Convolution(1, 96, 96, 128, 512),  # products
    Convolution(1, 32, 32, 320, 320),
    Convolution(1, 64, 64, 256, 64),  # input
    Convolution(1, 64, 64, 32, 320),  # output
    Convolution(1, 4, 4, 640, 640),  # filters
    Convolution(1, 8, 8, 1280, 640),
    Convolution(2, 8, 8, 640, 640),
    Convolution(1, 16, 16, 640, 640),
)
_LARGE = 4
"""The first so many have maps larger than a core's caches: upsampling costs something there."""

_ROUNDS = 7
_TOLERANCE = 1e-10

Progress = Callable[[int, int], None]
Stages = tuple[Kernel, ...]
"""The kernels of one convolution, in their order."""


def measure_costs(target: Target, progress: Progress) -> Costs:
    """Runs every algorithm on every shape, in turns, on one thread. The target must be one that runs here.

    `progress(done, total)` is called as work goes on. Takes half a minute, most of it LLVM's.
    """
    runs = _runs(target)
    compiled = Jit.of((kernel for found in runs.values() for stages in found for kernel in stages), target)
    memory = _Memory(runs, target)
    samples: dict[Stages, list[float]] = {stages: [] for found in runs.values() for stages in found}
    for turn in range(_ROUNDS + 1):
        for stages, times in samples.items():
            times.append(memory.time(stages, compiled.functions))
        progress(turn + 1, _ROUNDS + 1)
    measured = {
        algorithm: {stages: min(samples[stages][1:]) for stages in found} for algorithm, found in runs.items()
    }
    return Costs(target, host_name(), MEASURED, fit(measured))


def fit(measured: Mapping[str, Mapping[Stages, float]]) -> dict[str, dict[str, float]]:
    """Nanoseconds per element of each part of each algorithm, from the nanoseconds of whole kernels."""
    unknowns = [(PRODUCT, ""), *((part, algorithm) for algorithm in measured for part in PARTS[1:])]
    rows = [
        [total_work(stages)[part] / taken if owner in ("", algorithm) else 0.0 for part, owner in unknowns]
        for algorithm, times in measured.items()
        for stages, taken in times.items()
    ]
    found = dict(zip(unknowns, solve_non_negative(np.array(rows), np.ones(len(rows))), strict=True))
    return {
        algorithm: {part: float(found[part, "" if part == PRODUCT else algorithm]) for part in PARTS}
        for algorithm in measured
    }


def solve_non_negative(a: Array, b: Array) -> Array:
    """The x >= 0 with the least norm of a x - b (Lawson and Hanson 1974, chapter 23)."""
    scale = np.linalg.norm(a, axis=0)
    a = a / np.where(scale > 0, scale, 1)
    x, free = np.zeros(a.shape[1]), np.zeros(a.shape[1], bool)
    while True:
        gradient = np.where(free, 0, a.T @ (b - a @ x))
        if gradient.max() <= _TOLERANCE:
            return np.asarray(x / np.where(scale > 0, scale, 1))
        free[gradient.argmax()] = True
        x = _descend(a, b, x, free)


def _descend(a: Array, b: Array, x: Array, free: Array) -> Array:
    """The least squares solution in the `free` unknowns, of which those that would be negative become 0."""
    while True:
        solution = np.zeros_like(x)
        solution[free] = np.linalg.lstsq(a[:, free], b, rcond=None)[0]
        negative = free & (solution <= 0)
        if not negative.any():
            return solution
        step = (x[negative] / (x[negative] - solution[negative])).min()
        x = x + step * (solution - x)
        free &= x > _TOLERANCE


def _runs(target: Target) -> dict[str, list[Stages]]:
    """The kernels of every algorithm, shape by shape.

    The upsampled map of a folded one is as large as the others' map.
    """
    runs: dict[str, list[Stages]] = {}
    for form in forms(2):
        scale = 1 if form is None else form[1]
        for shape in SHAPES:
            found = Convolution(shape.batches, shape.height, shape.width, shape.depth, shape.columns, scale)
            runs.setdefault(name(form), []).append(kernels(found, form, target)[name(form)])
    upsampled = (Convolution(s.batches, s.height, s.width, s.depth, s.columns, 2) for s in SHAPES[:_LARGE])
    runs[UPSAMPLING] = [kernels(shape, None, target)[UPSAMPLING] for shape in upsampled]
    return runs


class _Memory:
    """Operands that serve every kernel: maps, weights and outputs as large as the largest."""

    def __init__(self, runs: Mapping[str, list[Stages]], target: Target) -> None:
        kernels = [kernel for found in runs.values() for stages in found for kernel in stages]
        border = max(s.batches * (s.height + 2) * (s.width + 2) * max(s.depth, s.columns) for s in SHAPES)
        weights = max(9 * s.depth * (s.columns + 64) for s in SHAPES)
        rng = np.random.default_rng(0)
        self._x = _copied(rng.standard_normal(border, np.float32))
        self._weights = _copied((rng.standard_normal(weights, np.float32) / 64).astype(np.float16))
        self._out = aligned_bytes(4 * border)
        prepared = (kernel.bytes for kernel in kernels if isinstance(kernel, WinogradInput))
        self._between = aligned_bytes(max(4 * border, *prepared))
        self._scratch = aligned_bytes(max(kernel.scratch_bytes(target) for kernel in kernels))

    def time(self, stages: Stages, functions: Mapping[Kernel, Any]) -> float:
        """Nanoseconds of processor time of one run: what other programs take does not count."""
        source, taken = self._x, 0
        for kernel in stages:
            prepares = isinstance(kernel, Resample | WinogradInput)
            operands = [source, self._between] if prepares else [source, self._weights, self._out]
            table = (ctypes.c_void_p * len(operands))(*(int(o.ctypes.data) for o in operands))
            begin = time.thread_time_ns()
            functions[kernel](ctypes.addressof(table), self._scratch.ctypes.data, 0, kernel.tiles)
            taken += time.thread_time_ns() - begin
            source = self._between
        return float(taken)


def _copied(values: Array) -> Array:
    place = aligned_bytes(values.nbytes)
    place[:] = values.view(np.uint8)
    return place
