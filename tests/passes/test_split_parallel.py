"""split_parallel: the order between kernels is what their buffers demand, and no more."""

import networkx as nx
from hypothesis import given, settings
from hypothesis import strategies as st

from sdcomp.codegen.plan import Buffer, Call, Program, Space
from sdcomp.codegen.targets import TARGETS
from sdcomp.ir.graph import Graph
from sdcomp.ir.ops import build
from sdcomp.passes.fuse_kernels import FuseKernels
from sdcomp.passes.split_parallel import Schedule, split_parallel
from tests.passes.graphs import source, weight
from tests.passes.programs import before, call, program

INPUT = Buffer(Space.INPUT, 4, "x")


def arena(count: int) -> list[Buffer]:
    return [Buffer(Space.ARENA, 64 + n) for n in range(count)]


def edges(schedule: Schedule) -> set[tuple[int, int]]:
    return {(n, later) for n in range(len(schedule.program.calls)) for later in schedule.successors(n)}


def attention_graph() -> Graph:
    """q, k and v of one input, attention, projection and residual."""
    x = source("x", (1, 6, 8))
    q, k, v = (build("matmul", x, weight(name, (8, 8))) for name in "qkv")
    mixed = build("attention", q, k, v, heads=2, causal=False)
    return Graph("g", {"y": build("add", build("matmul", mixed, weight("out", (8, 8))), x)})


def test_projections_are_unordered_and_all_before_attention() -> None:
    program = FuseKernels(TARGETS["x86-64-v3"], "f32").lower(attention_graph())
    schedule = split_parallel(program)
    kinds = [c.kernel.kind for c in program.calls]
    attention = kinds.index("attention")
    assert sorted(schedule.graph.predecessors(attention)) == [0, 1, 2]
    assert [schedule.dependencies(n) for n in range(5)] == [0, 0, 0, 3, 1]


def test_a_chain_has_no_edges_that_follow_from_others() -> None:
    """The last call reads all earlier results, but must be told of the last one only."""
    a, b, c, d = arena(4)
    schedule = split_parallel(program(call(a, INPUT), call(b, a), call(c, a, b), call(d, a, b, c)))
    assert edges(schedule) == {(0, 1), (1, 2), (2, 3)}


def test_reader_waits_for_every_writer_of_a_part() -> None:
    """The parts of a concatenation are unordered among themselves."""
    source_, whole, out = arena(3)
    schedule = split_parallel(
        program(call(source_, INPUT), call(whole, source_), call(whole, source_), call(out, whole))
    )
    assert edges(schedule) == {(0, 1), (0, 2), (1, 3), (2, 3)}


def test_early_parts_wait_for_late_ones() -> None:
    """The part that a skip connection brings starts with the part that comes last, so that their buffer is
    not taken early.
    """
    skip, middle, late, whole = arena(4)
    schedule = split_parallel(
        program(
            call(skip, INPUT), call(middle, skip), call(late, middle), call(whole, late), call(whole, skip)
        )
    )
    assert edges(schedule) == {(0, 1), (1, 2), (2, 3), (2, 4)}


def test_inputs_and_weights_order_nothing() -> None:
    matrix = Buffer(Space.WEIGHTS, 64)
    a, b = arena(2)
    assert edges(split_parallel(program(call(a, INPUT, matrix), call(b, INPUT, matrix)))) == set()


def test_state_and_outputs_order_like_any_buffer() -> None:
    state, out = Buffer(Space.STATE, 64, "s"), Buffer(Space.OUTPUT, 64, "y")
    (a,) = arena(1)
    assert edges(split_parallel(program(call(state, INPUT), call(out, state), call(a, out)))) == {
        (0, 1),
        (1, 2),
    }


def test_most_urgent_successor_first() -> None:
    """Urgency is the cost of the way to the end: a cheap kernel before a long chain goes first."""
    root, cheap, dear, end = arena(4)
    schedule = split_parallel(
        program(
            call(root, INPUT),
            call(dear, root, cost=50),
            call(cheap, root, cost=1),
            call(end, cheap, cost=100),
        )
    )
    assert schedule.successors(0) == [2, 1]
    assert schedule.graph.nodes[0]["urgency"] == 1 + 1 + 100


@st.composite
def programs(draw: st.DrawFn) -> Program:
    """Calls that read up to three earlier buffers; some write a part of a buffer that exists already."""
    buffers: list[Buffer] = []
    calls: list[Call] = []
    for _ in range(draw(st.integers(1, 14))):
        reads = draw(st.lists(st.sampled_from(buffers), max_size=3, unique=True)) if buffers else []
        unread = [b for b in buffers if b not in reads and not any(b in c.reads for c in calls)]
        if unread and draw(st.integers(0, 4)) == 0:
            written = draw(st.sampled_from(unread))
        else:
            written = Buffer(Space.ARENA, draw(st.integers(1, 500)))
            buffers.append(written)
        calls.append(call(written, INPUT, *reads))
    return program(*calls)


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(programs())
def test_order_is_exactly_what_buffers_demand(made: Program) -> None:
    """The same order as all dependencies together, by the fewest edges, and consistent with the order of
    calls.
    """
    schedule = split_parallel(made)
    earlier = before(made)
    graph = nx.DiGraph(edges(schedule))
    graph.add_nodes_from(range(len(made.calls)))
    assert [nx.ancestors(graph, n) for n in range(len(made.calls))] == earlier
    assert all(a < b for a, b in graph.edges)
    for a, b in list(graph.edges):
        graph.remove_edge(a, b)
        assert not nx.has_path(graph, a, b)
        graph.add_edge(a, b)
    assert [schedule.dependencies(n) for n in range(len(made.calls))] == [
        graph.in_degree(n) for n in range(len(made.calls))
    ]
