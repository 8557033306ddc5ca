"""The plan of an artifact as C source: the tables of `runtime/native/plan.h`, readable, compiled with the
runtime.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from sdcomp.codegen.kernels.base import Kernel
from sdcomp.codegen.plan import Buffer, Operand, Program, Space
from sdcomp.codegen.targets import Target
from sdcomp.ir.types import TensorType
from sdcomp.passes.plan_memory import MemoryPlan
from sdcomp.passes.split_parallel import Schedule

ABI_VERSION = 1


@dataclass(frozen=True)
class PlannedProgram:
    """A program with its schedule and memory."""

    schedule: Schedule
    memory: MemoryPlan

    @property
    def program(self) -> Program:
        return self.schedule.program

    def weights(self) -> list[Buffer]:
        """The payload buffers that it reads, in order of first use."""
        operands = (o.buffer for call in self.program.calls for o in call.operands)
        return list(dict.fromkeys(b for b in operands if b.space is Space.WEIGHTS))

    def state(self, written: bool) -> set[Buffer]:
        """State that it leaves for others (`written`), or needs from them."""
        made = {call.writes for call in self.program.calls if call.writes.space is Space.STATE}
        read = {b for call in self.program.calls for b in call.reads if b.space is Space.STATE}
        return made if written else read - made


@dataclass(frozen=True)
class Tables:
    """Everything that the C source says."""

    programs: Sequence[PlannedProgram]
    symbols: Mapping[Kernel, str]
    target: Target
    weight_offsets: Mapping[Buffer, int]
    state_offsets: Mapping[Buffer, int]
    state_bytes: int
    weights_bytes: int
    weights_hash: int
    manifest: str

    def source(self) -> str:
        """A C translation unit that defines `sdcomp_model_plan`."""
        lines = ['#include "plan.h"', "#include <stddef.h>", "", *self._declarations(), ""]
        for number, planned in enumerate(self.programs):
            lines += [*self._program_tables(number, planned), ""]
        lines += [*self._programs(), "", *self._model(), ""]
        return "\n".join(lines)

    def _declarations(self) -> Iterator[str]:
        for symbol in self.symbols.values():
            yield f"void {symbol}(void *const *, void *, int64_t, int64_t);"

    def _program_tables(self, number: int, planned: PlannedProgram) -> Iterator[str]:
        program, schedule = planned.program, planned.schedule
        order = {
            "input": {n: i for i, n in enumerate(program.inputs)},
            "output": {n: i for i, n in enumerate(program.outputs)},
        }
        operands: list[str] = []
        successors: list[int] = []
        kernels: list[str] = []
        for index, call in enumerate(program.calls):
            later = schedule.successors(index)
            first = f"{len(operands)}, {len(call.operands)}, {len(successors)}, {len(later)}"
            name, symbol = _quote(f"{call.kernel.kind} {call.label}"), self.symbols[call.kernel]
            work = f"{call.kernel.tiles}u, {call.kernel.grain}u"
            kernels.append(f"{{{name}, {symbol}, {work}, {first}, {schedule.dependencies(index)}}}")
            operands += [self._operand(operand, planned, order) for operand in call.operands]
            successors += later
        yield from _array("sdcomp_plan_kernel", f"kernels_{number}", kernels)
        yield from _array("sdcomp_plan_operand", f"operands_{number}", operands)
        yield from _array("uint32_t", f"successors_{number}", map(str, successors))
        yield from _array("sdcomp_plan_tensor", f"inputs_{number}", _tensors(program.inputs))
        yield from _array("sdcomp_plan_tensor", f"outputs_{number}", _tensors(program.outputs))
        yield from _array("uint32_t", f"requires_{number}", map(str, self.requires(planned)))

    def _operand(
        self, operand: Operand, planned: PlannedProgram, order: Mapping[str, Mapping[str, int]]
    ) -> str:
        buffer = operand.buffer
        index, base = 0, 0
        if buffer.space is Space.ARENA:
            base = planned.memory.offsets[buffer]
        elif buffer.space is Space.WEIGHTS:
            base = self.weight_offsets[buffer]
        elif buffer.space is Space.STATE:
            base = self.state_offsets[buffer]
        else:
            index = order[buffer.space.name.lower()][buffer.name]
        return f"{{SDCOMP_SPACE_{buffer.space.name}, {index}, {base + operand.offset}u}}"

    def requires(self, planned: PlannedProgram) -> list[int]:
        """Numbers of the programs that leave the state which this one reads."""
        needed = planned.state(written=False)
        return [i for i, other in enumerate(self.programs) if needed & other.state(written=True)]

    def _programs(self) -> Iterator[str]:
        rows = []
        for number, planned in enumerate(self.programs):
            program = planned.program
            begin, end = self.weights_range(planned)
            fields = (
                _quote(program.name),
                f"kernels_{number}, {len(program.calls)}, operands_{number}, successors_{number}",
                f"inputs_{number}, {len(program.inputs)}, outputs_{number}, {len(program.outputs)}",
                f"requires_{number}, {len(self.requires(planned))}",
                f"{planned.memory.bytes}u, {self.scratch_bytes(planned)}u, {begin}u, {end}u",
            )
            rows.append(f"{{{', '.join(fields)}}}")
        yield from _array("sdcomp_plan_program", "programs", rows)

    def scratch_bytes(self, planned: PlannedProgram) -> int:
        """Scratch that each worker needs for this program."""
        return max((call.kernel.scratch_bytes(self.target) for call in planned.program.calls), default=0)

    def weights_range(self, planned: PlannedProgram) -> tuple[int, int]:
        """The part of the payload that the program reads."""
        spans = [(self.weight_offsets[b], self.weight_offsets[b] + b.bytes) for b in planned.weights()]
        return min((s for s, _ in spans), default=0), max((e for _, e in spans), default=0)

    def _model(self) -> Iterator[str]:
        yield f"static const char manifest[] = {_quote(self.manifest)};"
        yield from _array("char *const", "features", [*map(_quote, self.target.features), "NULL"])
        yield "const sdcomp_plan sdcomp_model_plan = {"
        yield f"  {ABI_VERSION}, manifest, features, programs, {len(self.programs)}, {self.state_bytes}u,"
        yield f"  {self.weights_bytes}u, {self.weights_hash:#x}u"
        yield "};"


def _array(kind: str, name: str, items: Iterable[str]) -> Iterator[str]:
    """A static table; an empty one still needs an element in C."""
    rows = list(items)
    yield f"static const {kind} {name}[] = {{"
    yield from (f"  {row}," for row in rows or ["0" if kind == "uint32_t" else "{0}"])
    yield "};"


def _tensors(tensors: Mapping[str, TensorType]) -> Iterator[str]:
    for name, kind in tensors.items():
        extents = ", ".join(f"{extent}u" for extent in kind.shape)
        dtype = _quote(kind.dtype.value)
        yield f"{{{_quote(name)}, {dtype}, {len(kind.shape)}, {{{extents}}}, {kind.bytes}u}}"


def _quote(text: str) -> str:
    """A C string literal. Octal escapes end after three digits, so no following character can join them."""
    safe = (chr(b) if 32 <= b < 127 and b not in b'"\\?' else f"\\{b:03o}" for b in text.encode())
    return '"' + "".join(safe) + '"'
