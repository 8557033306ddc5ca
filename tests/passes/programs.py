"""Small programs without code, for the passes that look at buffers only."""

from collections.abc import Sequence
from dataclasses import dataclass

from sdcomp.codegen.builder import Emitter, Value
from sdcomp.codegen.kernels.base import Kernel
from sdcomp.codegen.plan import Buffer, Call, Operand, Program


@dataclass(frozen=True)
class Fake(Kernel):
    """A kernel that only has a cost."""

    cost: int = 1

    kind = "fake"

    @property
    def tiles(self) -> int:
        return 1

    @property
    def multiplies(self) -> int:
        return self.cost

    def emit_tile(self, e: Emitter, tile: Value) -> None:
        raise AssertionError("a fake kernel has no code")


def call(writes: Buffer, *reads: Buffer, cost: int = 1) -> Call:
    """A call that writes one buffer and reads others."""
    return Call(Fake(cost), (*map(Operand, reads), Operand(writes)), len(reads), "")


def program(*calls: Call) -> Program:
    return Program("p", {}, {}, calls)


def before(program: Program) -> list[set[int]]:
    """For every call the calls that must be finished before it starts: it reads, directly or not, what they
    wrote; or a call that writes another part of the same buffer does, and they come earlier in the program.
    """
    direct: list[set[int]] = []
    for number, made in enumerate(program.calls):
        direct.append({n for n in range(number) if program.calls[n].writes in made.reads})
    parts = [[n for n, c in enumerate(program.calls) if c.writes is made.writes] for made in program.calls]
    earlier: list[set[int]] = []
    for number, together in enumerate(parts):
        needed = {n for part in together for n in direct[part] if n < number}
        earlier.append(needed.union(*(earlier[n] for n in needed)))
    return earlier


def touching(program: Program, buffer: Buffer) -> list[int]:
    """The calls that write or read a buffer."""
    return [n for n, c in enumerate(program.calls) if buffer in [o.buffer for o in c.operands]]


def overlap(spans: Sequence[tuple[int, int]]) -> bool:
    """Whether two half-open ranges share a byte."""
    (start, end), (other_start, other_end) = spans
    return start < other_end and other_start < end
