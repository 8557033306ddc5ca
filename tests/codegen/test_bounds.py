"""Kernels touch no byte outside of their operands: each operand lies against a page that may not be
touched.

Reading too far goes unnoticed where the value is then thrown away, as by a mask, until the operand is the
last of a mapped file. A forked process runs the kernels, so that a violation ends it and not the tests.
"""

import ctypes
import faulthandler
import mmap
import os
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pytest

from sdcomp.codegen.builder import Emitter, Value, f32
from sdcomp.codegen.kernels.base import Kernel, operand
from sdcomp.codegen.targets import resolve
from sdcomp.ir.types import Array
from tests.codegen.case import Case, Compiled
from tests.codegen.families import FAMILIES
from tests.codegen.jit import Jit

_NO_ACCESS = 0

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


class Fenced:
    """A copy of an array in whole pages, with forbidden pages before and after; it touches one of them."""

    def __init__(self, array: Array, at_end: bool) -> None:
        page = mmap.PAGESIZE
        inside = -(-max(array.nbytes, 1) // page) * page
        self._map = mmap.mmap(-1, inside + 2 * page)
        start = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        self.address = start + page + (inside - array.nbytes if at_end else 0)
        ctypes.memmove(self.address, array.tobytes(), array.nbytes)
        libc = ctypes.CDLL(None, use_errno=True)
        for fence in (start, start + page + inside):
            assert libc.mprotect(ctypes.c_void_p(fence), page, _NO_ACCESS) == 0


def run_fenced(jit: Jit, case: Case, at_end: bool) -> None:
    operands = [*case.operands]
    operands.insert(case.written, np.full(case.expected.shape, np.nan, np.float32))
    fenced = [Fenced(operand, at_end) for operand in operands]
    jit.run(case.kernel, [f.address for f in fenced])


def survivors(jit: Jit, cases: Iterable[Case]) -> int:
    """How many runs a forked process finishes: each case at the start and at the end of its memory."""
    progress = mmap.mmap(-1, 8)
    child = os.fork()
    if child == 0:
        faulthandler.disable()
        for case in cases:
            for at_end in (False, True):
                run_fenced(jit, case, at_end)
                progress[:8] = (int.from_bytes(progress[:8], "little") + 1).to_bytes(8, "little")
        os._exit(0)
    os.waitpid(child, 0)
    return int.from_bytes(progress[:8], "little")


@needs_fork
@pytest.mark.parametrize("family", FAMILIES)
def test_no_byte_outside(family: str) -> None:
    compiled = Compiled.once(FAMILIES[family], resolve("native"))
    finished = survivors(compiled.jit, compiled.cases.values())
    runs = [f"{name}: {side} an operand" for name in compiled.cases for side in ("before", "behind")]
    assert finished == len(runs), f"touched memory in {runs[finished]}"


@dataclass(frozen=True)
class ReadsTooFar(Kernel):
    """Reads one value behind its operand and throws it away. Operands: x, out."""

    count: int
    beyond: int

    kind = "reads_too_far"

    @property
    def tiles(self) -> int:
        return 1

    def emit_tile(self, e: Emitter, tile: Value) -> None:
        read = e.load(operand(e, 0), self.count - 1 + self.beyond)
        unused = e.b.fcmp_ordered("<", read, f32(1e30))
        e.store(e.b.select(unused, f32(1.0), read), operand(e, 1))


@needs_fork
@pytest.mark.parametrize(("beyond", "finished"), [(0, 2), (1, 1)])
def test_the_fence_holds(beyond: int, finished: int) -> None:
    """The run at the start of the page passes, the one at its end does not."""
    kernel = ReadsTooFar(4, beyond)
    case = Case(kernel, [np.zeros(4, np.float32)], 1, np.ones(1), 0.0)
    assert survivors(Jit.of([kernel], resolve("native")), [case]) == finished
