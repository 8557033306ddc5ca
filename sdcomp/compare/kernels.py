"""compare_kernels(): the first kernel whose output departs from onnxruntime's value of the same node.

The artifact runs kernel by kernel. What a kernel leaves is compared with onnxruntime's value of the node that
it computes, in the program exported after all passes, and then replaced by it: so each kernel is judged on
inputs that are right, errors do not add up, and one wrong kernel does not blame those behind it.
"""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sdcomp.codegen.values import VALUES, Value, decode_values
from sdcomp.compare.cases import Arrays, Case, CompareOptions, Progress, open_cases, silent
from sdcomp.compare.difference import difference
from sdcomp.compare.pieces import PieceByPiece, Place, TracedModel
from sdcomp.errors import ArtifactError, UsageError
from sdcomp.export import PLAN
from sdcomp.ir.types import Array
from sdcomp.runtime.context import Context
from sdcomp.runtime.library import Library
from sdcomp.runtime.programs import ProgramInfo


@dataclass(frozen=True)
class KernelResult:
    """What the kernel number `kernel` of a program left, against the value `node` of the exported program.

    `kinds` are those of the kernels that computed it, mostly one; a group norm has three, of which the first
    two leave no node's value. `label` is the module of the checkpoint that they belong to. `error` is
    relative, `largest` absolute, both for right inputs.
    """

    program: str
    kernel: int
    kinds: tuple[str, ...]
    label: str
    node: str
    error: float
    largest: float


@dataclass(frozen=True)
class KernelReport:
    """`results` are in the order in which the artifact runs; `skipped` networks were not exported."""

    results: tuple[KernelResult, ...]
    skipped: tuple[str, ...]
    threads: int
    tolerance: float

    @property
    def departing(self) -> list[KernelResult]:
        """The kernels that are wrong, first one first."""
        return [found for found in self.results if not found.error <= self.tolerance]

    @property
    def passed(self) -> bool:
        return not self.departing


def compare_kernels(
    artifact: Path | str,
    folder: Path | str,
    options: CompareOptions | None = None,
    progress: Progress | None = None,
) -> KernelReport:
    """Runs every program of an artifact beside the one in the folder's `plan`, which `export_onnx` writes
    with `ExportOptions(plan=True)`.

    Raises UsageError for a missing package or plan, a plan of other files and inputs that do not fit,
    LoadError for a file that is no plan, ArtifactError for a file that is no artifact.
    """
    options, progress = options or CompareOptions(), progress or silent
    plan = Path(folder) / PLAN
    if not plan.is_dir():
        raise UsageError(
            f"{plan}: no such folder; make it with sdcomp export --plan, from the same checkpoint"
        )
    results: list[KernelResult] = []
    skipped: list[str] = []
    with Library.open(artifact, options.threads) as library:
        values = _values(library)
        for case in open_cases(library, options):
            if not all(_path(plan, program).is_file() for program in case.programs):
                skipped.append(case.name)
                continue
            with library.context() as context:
                results += _Check(case, plan, context, library.threads, progress).results(values)
        if not results:
            raise UsageError(
                f"{plan}: its programs have other sizes than {artifact}; export one of its sizes"
            )
        return KernelReport(tuple(results), tuple(skipped), library.threads, options.tolerance)


def _values(library: Library) -> dict[str, list[Value]]:
    asset = library.manifest["assets"].get(VALUES)
    if asset is None:
        raise ArtifactError(f"{library.path}: does not say what its kernels compute; build it again")
    return decode_values(library.asset(asset["offset"], asset["bytes"]))


def _path(plan: Path, program: ProgramInfo) -> Path:
    return plan / f"{program.name}.onnx"


@dataclass(frozen=True)
class _Check:
    """The programs of one network, in the order in which they run, in one context."""

    case: Case
    plan: Path
    context: Context
    threads: int
    progress: Progress

    def results(self, values: dict[str, list[Value]]) -> list[KernelResult]:
        """What one program leaves for another is onnxruntime's on both sides."""
        known = dict(self.case.inputs)
        results: list[KernelResult] = []
        for program in self.case.programs:
            model = TracedModel(_path(self.plan, program))
            results += self._program(program, model, values[program.name], known)
        return results

    def _program(
        self, program: ProgramInfo, model: TracedModel, values: Sequence[Value], known: Arrays
    ) -> list[KernelResult]:
        places = {value.kernel: model.place(value.fingerprint) for value in values}
        reference = PieceByPiece(model, [place.name for place in places.values()], known, self.threads)
        by_kernel = {value.kernel: value for value in values}
        results: list[KernelResult] = []
        unfinished: list[str] = []

        def observe(kernel: int, operands: Sequence[int]) -> None:
            self.progress(program.name, kernel, len(program.kernels))
            unfinished.append(program.kernels[kernel])
            if kernel not in by_kernel:
                return
            found, place = _memory(operands, by_kernel[kernel]), places[kernel]
            results.append(_result(program, kernel, unfinished, place, found, reference.value(place)))
            unfinished.clear()

        self.context.run(program.name, self.case.own_inputs(program), observe=observe)
        known |= reference.outputs()
        return results


def _memory(operands: Sequence[int], value: Value) -> Array:
    """The value as it lies in the artifact's memory."""
    extents = zip(value.shape, value.strides, strict=True)
    size = value.dtype.bytes + sum((extent - 1) * stride for extent, stride in extents)
    memory = (ctypes.c_uint8 * size).from_address(operands[value.operand] + value.offset)
    first = np.ctypeslib.as_array(memory).view(value.dtype.numpy)
    return np.lib.stride_tricks.as_strided(first, value.shape, value.strides)


def _result(
    program: ProgramInfo, kernel: int, names: Sequence[str], place: Place, found: Array, expected: Array
) -> KernelResult:
    """Leaves `expected` in the memory of `found`."""
    apart = difference(found, expected)
    found[...] = expected
    kinds = tuple(name.partition(" ")[0] for name in names)
    label = names[-1].partition(" ")[2]
    return KernelResult(program.name, kernel, kinds, label, place.name, apart.error, apart.largest)
