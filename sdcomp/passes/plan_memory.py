"""plan_memory: a place in one arena for every intermediate buffer.

Two buffers may overlap only if the schedule orders every kernel that touches one before every kernel that
touches the other: kernels that may run at the same time never share memory. Greedy by size (Pisarchyk and
Lee 2020): the largest buffer first, each at the lowest offset that is free among the buffers it conflicts
with; among equals the earliest first, or the latest, whichever leaves fewer gaps.
"""

from dataclasses import dataclass

import networkx as nx

from sdcomp.codegen.plan import Buffer, Space
from sdcomp.passes.split_parallel import Schedule

ALIGNMENT = 64


@dataclass(frozen=True)
class MemoryPlan:
    """Offset of every arena buffer, and the arena's size: the peak of the program's intermediate memory."""

    offsets: dict[Buffer, int]
    bytes: int


def plan_memory(schedule: Schedule) -> MemoryPlan:
    """Places the arena buffers of one program."""
    touched = _touched(schedule)
    before = _ancestors(schedule)
    orders = (
        sorted(touched, key=lambda b: (-b.bytes, touched[b][0])),
        sorted(touched, key=lambda b: (-b.bytes, -touched[b][-1])),
    )
    return min((_place(order, touched, before) for order in orders), key=lambda plan: plan.bytes)


def _place(order: list[Buffer], touched: dict[Buffer, list[int]], before: list[int]) -> MemoryPlan:
    offsets: dict[Buffer, int] = {}
    for buffer in order:
        taken = sorted(
            (offsets[other], offsets[other] + aligned(other.bytes))
            for other in offsets
            if _conflict(touched[buffer], touched[other], before)
        )
        offsets[buffer] = _lowest_gap(taken, aligned(buffer.bytes))
    return MemoryPlan(offsets, max((offsets[b] + aligned(b.bytes) for b in offsets), default=0))


def aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _touched(schedule: Schedule) -> dict[Buffer, list[int]]:
    """The calls that write or read each arena buffer."""
    touched: dict[Buffer, list[int]] = {}
    for number, call in enumerate(schedule.program.calls):
        for buffer in {operand.buffer: None for operand in call.operands}:
            if buffer.space is Space.ARENA:
                touched.setdefault(buffer, []).append(number)
    return touched


def _ancestors(schedule: Schedule) -> list[int]:
    """For each call a bit set of the calls that are certainly finished when it starts."""
    before = [0] * len(schedule.program.calls)
    for number in nx.topological_sort(schedule.graph):
        for earlier in schedule.graph.predecessors(number):
            before[number] |= before[earlier] | 1 << earlier
    return before


def _conflict(a: list[int], b: list[int], before: list[int]) -> bool:
    return not (_all_before(a, b, before) or _all_before(b, a, before))


def _all_before(earlier: list[int], later: list[int], before: list[int]) -> bool:
    wanted = sum(1 << number for number in earlier)
    return all(before[number] & wanted == wanted for number in later)


def _lowest_gap(taken: list[tuple[int, int]], size: int) -> int:
    at = 0
    for start, end in taken:
        if start - at >= size:
            break
        at = max(at, end)
    return at
