"""One kernel on one set of operands, and what must be true of every run of it.

- The values are within the case's bound of an f64 reference.
- Nothing but the output is written: not the gaps between its rows, not the bytes around it, no other
  operand.
- Nothing unwritten is read: scratch, output and gaps hold NaN before the run.
- Tiles are independent: one by one, in reverse or in any other order, they give the same bits as all in one
  call.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pytest

from sdcomp.codegen.kernels.base import Kernel
from sdcomp.codegen.targets import Target
from sdcomp.ir.types import Array
from tests.codegen.jit import UNWRITTEN, Jit, runnable_targets

ROUNDING = 2.0**-24
"""Relative error of one f32 operation, at most."""

_GUARD = 256


@dataclass(frozen=True, eq=False)
class Case:
    """`operands` are the kernel's but for number `written`, as they lie in memory.

    `expected` is the memory of the output after the run, in f64: NaN marks what must not be touched.
    `bound` is the largest norm(found - expected) / norm(expected).
    """

    kernel: Kernel
    operands: Sequence[Array]
    written: int
    expected: Array
    bound: float


Build = Callable[[Target], Case]

isa = pytest.mark.parametrize(
    "compiled", [pytest.param(t, id=t.name) for t in runnable_targets()], indirect=True
)
"""Runs a test once for each target that this machine can run; its module has a fixture `compiled`."""


def relative_error(found: Array, expected: Array) -> float:
    """Frobenius norm of the difference over that of the reference; infinite if anything is not a number."""
    difference = float(np.linalg.norm(found.astype(np.float64) - expected))
    norm = float(np.linalg.norm(expected))
    return difference / norm if np.isfinite(difference) and norm else (0.0 if difference == 0 else np.inf)


class Compiled:
    """All cases of one kernel family for one target, in one module."""

    def __init__(self, builds: Mapping[str, Build], target: Target) -> None:
        self.target = target
        self.cases = {name: build(target) for name, build in builds.items()}
        self.jit = Jit.of((case.kernel for case in self.cases.values()), target)

    @staticmethod
    def once(builds: Mapping[str, Build], target: Target) -> "Compiled":
        """The same object for the same family and target, so that every test shares one compilation."""
        key = (id(builds), target)
        if key not in _COMPILED:
            _COMPILED[key] = Compiled(builds, target)
        return _COMPILED[key]

    def run(self, name: str, order: Sequence[int] | None = None) -> Array:
        """The output's memory after a run; asserts that only the output was written."""
        return self.run_case(self.cases[name], order)

    def run_case(self, case: Case, order: Sequence[int] | None = None) -> Array:
        """As `run`, for a compiled kernel on other operands."""
        operands = [*case.operands]
        operands.insert(case.written, np.full(case.expected.shape, np.nan, np.float32))
        memory = [_Guarded(operand) for operand in operands]
        memory[case.written].array.view(np.uint8)[...] = UNWRITTEN
        self.jit.run(case.kernel, [int(m.array.ctypes.data) for m in memory], order)
        for index, (guarded, operand) in enumerate(zip(memory, operands, strict=True)):
            assert guarded.is_intact(), f"wrote outside of operand {index}"
            same = index == case.written or guarded.array.tobytes() == operand.tobytes()
            assert same, f"wrote into operand {index}, which it only reads"
        return memory[case.written].array

    def check(self, name: str) -> None:
        """Everything that the head of this file promises."""
        case, found = self.cases[name], self.run(name)
        untouched = np.isnan(case.expected)
        left = found[untouched].view(np.uint8)
        assert (left == UNWRITTEN).all(), "wrote into the gaps of its output"
        error = relative_error(found[~untouched], case.expected[~untouched])
        assert error <= case.bound, f"relative error {error:.3g}, at most {case.bound:.3g} expected"
        for order in _orders(case.kernel.tiles):
            assert self.run(name, order).tobytes() == found.tobytes(), f"tiles in order {order} differ"


_COMPILED: dict[tuple[int, Target], Compiled] = {}
"""By the identity of a family's cases, which are constants of its module."""


class _Guarded:
    """A copy of an array with guard bytes on both sides, at a 64-byte boundary."""

    def __init__(self, array: Array) -> None:
        self._room = np.full(array.nbytes + 2 * _GUARD + 64, UNWRITTEN, np.uint8)
        start = _GUARD + -(self._room.ctypes.data + _GUARD) % 64
        self._inside = slice(start, start + array.nbytes)
        self.array: Array = self._room[self._inside].view(array.dtype).reshape(array.shape)
        self.array[...] = array

    def is_intact(self) -> bool:
        around = (self._room[: self._inside.start], self._room[self._inside.stop :])
        return all((part == UNWRITTEN).all() for part in around)


def _orders(tiles: int) -> list[list[int]]:
    """One by one backwards, and shuffled."""
    shuffled = np.random.default_rng(tiles).permutation(tiles).tolist()
    return [list(range(tiles))[::-1], shuffled] if tiles > 1 else [[0]]


def gapped(rows: Array, stride: int) -> Array:
    """Rows [..., channels] in memory with `stride` elements from one to the next; NaN in the gaps."""
    memory = np.full((*rows.shape[:-1], stride), np.nan, rows.dtype)
    memory[..., : rows.shape[-1]] = rows
    return memory


def random_normal(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
