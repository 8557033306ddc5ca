"""fuse_kernels: which nodes become one kernel, where values lie, and that the compiled program computes the
graph.
"""

from collections.abc import Callable

import pytest

from sdcomp.codegen.kernels.contraction import Contraction
from sdcomp.codegen.plan import Call, Program, Space
from sdcomp.codegen.targets import TARGETS
from sdcomp.codegen.weights import SMALL_MATRIX
from sdcomp.errors import PassError
from sdcomp.ir.graph import Graph, Node
from sdcomp.ir.ops import build
from sdcomp.ir.types import DType
from sdcomp.passes.fuse_kernels import FuseKernels
from sdcomp.passes.rewrite_winograd import winograd_stages
from tests.differential.compare import errors, random_inputs
from tests.passes.graphs import number, source, weight

TARGET = TARGETS["x86-64-v3"]
TOLERANCE = 1e-6
"""Sums of a few dozen products, in f32 instead of f64."""


def lower(policy: str = "f32", /, **outputs: Node) -> Program:
    return FuseKernels(TARGET, policy).lower(Graph("g", outputs))


def kinds(program: Program) -> list[str]:
    return [call.kernel.kind for call in program.calls]


def steps(call: Call) -> list[str]:
    assert isinstance(call.kernel, Contraction)
    return [step.kind for step in call.kernel.steps]


def check(*graphs: Graph) -> None:
    """The compiled program agrees with the interpreter."""
    found = errors(graphs, random_inputs(graphs))
    assert max(found.values()) <= TOLERANCE, found


def check_outputs(**outputs: Node) -> None:
    check(Graph("g", outputs))


def linear(x: Node, columns: int = 6, name: str = "layer") -> Node:
    """x w^T + b"""
    product = build("matmul", x, weight(f"{name}.weight", (columns, x.shape[-1])))
    return build("add", product, weight(f"{name}.bias", (columns,)))


def geglu(x: Node, columns: int) -> Node:
    both, axis = linear(x, 2 * columns), len(x.shape) - 1
    value = build("slice", both, axis=axis, start=0, stop=columns)
    gate = build("slice", both, axis=axis, start=columns, stop=2 * columns)
    return build("mul", value, build("gelu", gate))


X = source("x", (2, 5, 8))
IMAGE = source("image", (2, 4, 6, 8))


# What a kernel swallows


def test_bias_residual_and_activation_are_one_kernel() -> None:
    y = build("silu", build("add", linear(X), source("residual", (2, 5, 6))))
    program = lower(y=y)
    assert kinds(program) == ["contraction"]
    assert steps(program.calls[0]) == ["bias", "tensor", "silu"]
    assert program.calls[0].label == "layer"
    check_outputs(y=y)


def test_bias_alone_where_the_sum_is_read_twice() -> None:
    """The shared value is computed once and exists; neither reader computes it again."""
    shared = linear(X)
    outputs = {"a": build("silu", shared), "b": build("tanh", shared)}
    program = lower(**outputs)
    assert kinds(program) == ["contraction", "pointwise", "pointwise"]
    assert steps(program.calls[0]) == ["bias"]
    check_outputs(**outputs)


def test_an_output_is_not_swallowed() -> None:
    outputs = {"before": linear(X), "after": build("silu", linear(X))}
    outputs["after"] = build("silu", outputs["before"])
    assert kinds(lower(**outputs)) == ["contraction", "pointwise"]
    check_outputs(**outputs)


def test_one_addend_of_two_contractions_carries_the_sum() -> None:
    """q + k of two products: the later kernel reads what the earlier one wrote."""
    y = build("add", linear(X, name="first"), linear(X, name="second"))
    program = lower(y=y)
    assert kinds(program) == ["contraction", "contraction"]
    assert sorted(steps(call) for call in program.calls) == [["bias"], ["bias", "tensor"]]
    check_outputs(y=y)


def test_a_value_added_to_itself_is_read_from_memory() -> None:
    product = linear(X)
    y = build("add", product, product)
    assert kinds(lower(y=y)) == ["contraction", "pointwise"]
    check_outputs(y=y)


def test_convolution_takes_time_embedding_and_residual() -> None:
    conv = build("conv2d", IMAGE, weight("conv.weight", (6, 8, 3, 3)), stride=1, padding=(0, 0, 0, 0))
    timed = build("add", conv, source("time", (2, 1, 1, 6)))
    y = build("add", timed, source("residual", (2, 2, 4, 6)))
    program = lower(y=y)
    assert steps(program.calls[0]) == ["batch_vector", "tensor"]
    check_outputs(y=y)


def test_reshape_between_product_and_residual() -> None:
    """A transformer's output becomes an image before the residual is added."""
    image = build("reshape", linear(source("tokens", (2, 24, 8)), 8), shape=(2, 4, 6, 8))
    y = build("add", image, IMAGE)
    assert [steps(call) for call in lower(y=y).calls] == [["bias", "tensor"]]
    check_outputs(y=y)


def test_geglu_is_one_kernel() -> None:
    y = geglu(X, 33)
    program = lower(y=y)
    assert kinds(program) == ["contraction"]
    kernel = program.calls[0].kernel
    assert isinstance(kernel, Contraction)
    assert kernel.gated
    assert kernel.columns == 66
    check_outputs(y=y)


def test_gate_is_not_fused_where_the_product_is_read_again() -> None:
    both = linear(X, 12)
    value = build("slice", both, axis=2, start=0, stop=6)
    gate = build("slice", both, axis=2, start=6, stop=12)
    outputs = {"y": build("mul", value, build("gelu", gate)), "z": build("silu", both)}
    assert kinds(lower(**outputs)) == ["contraction", "pointwise", "pointwise"]
    check_outputs(**outputs)


def test_group_norm_takes_activation_and_padding() -> None:
    norm = build("group_norm", IMAGE, weight("gamma", (8,)), weight("beta", (8,)), groups=4, eps=1e-5)
    y = build("pad", build("silu", norm), padding=(1, 2, 0, 1))
    assert kinds(lower(y=y)) == ["group_norm_statistics", "group_norm_combine", "group_norm_apply"]
    check_outputs(y=y)


def test_upsampling_takes_padding() -> None:
    y = build("pad", build("upsample_nearest", IMAGE, scale=2), padding=(1, 1, 1, 1))
    assert kinds(lower(y=y)) == ["resample"]
    check_outputs(y=y)


def test_a_tree_of_pointwise_operations_is_one_kernel() -> None:
    y = build(
        "mul", build("silu", build("add", X, weight("w", (8,)))), build("tanh", build("mul", X, number(0.5)))
    )
    assert kinds(lower(y=y)) == ["pointwise"]
    check_outputs(y=y)


# How an operand of the epilogue is read: the batches of the sum need not be those of the product

ADDENDS = {
    "vector_per_sample": ((2, 5, 8), None, (2, 1, 6)),
    "one_vector": ((2, 5, 8), None, (1, 1, 6)),
    "one_sample": ((2, 5, 8), None, (1, 5, 6)),
    "matrix": ((4, 8), None, (4, 6)),
    "row_of_a_matrix": ((4, 8), None, (1, 6)),
    "vector": ((4, 8), None, (6,)),
    "rows_split_vector_per_sample": ((4, 8), (2, 2, 6), (2, 1, 6)),
    "rows_split_one_sample": ((4, 8), (2, 2, 6), (1, 2, 6)),
    "samples_joined": ((2, 5, 8), (1, 10, 6), (1, 10, 6)),
    "samples_joined_row": ((2, 5, 8), (10, 6), (1, 6)),
    "samples_regrouped": ((2, 5, 8), (5, 2, 6), (5, 1, 6)),
    "samples_in_a_batch": ((2, 5, 8), (1, 2, 5, 6), (1, 2, 5, 6)),
    "image_vector_per_sample": ((2, 3, 4, 8), None, (2, 1, 1, 6)),
    "image_one_sample": ((2, 3, 4, 8), None, (1, 3, 4, 6)),
    "image_vector_per_row": ((2, 2, 3, 8), None, (2, 1, 6)),
    "product_repeated": ((1, 5, 8), None, (2, 5, 6)),
}


@pytest.mark.parametrize(("x", "reshaped", "addend"), ADDENDS.values(), ids=ADDENDS)
def test_addends(x: tuple[int, ...], reshaped: tuple[int, ...] | None, addend: tuple[int, ...]) -> None:
    """Each sum is right, whether or not its kernel swallows it."""
    product = build("matmul", source("x", x), weight("w", (6, x[-1])))
    product = product if reshaped is None else build("reshape", product, shape=reshaped)
    check_outputs(y=build("add", product, source("addend", addend)))


# Where values lie


def test_reshape_and_slices_of_columns_are_views() -> None:
    """No kernel moves them: the products read the columns in place."""
    wide = linear(X, 16)
    parts = [build("slice", wide, axis=2, start=start, stop=start + 8) for start in (0, 8)]
    y = build(
        "add", linear(parts[0], name="a"), linear(build("reshape", parts[1], shape=(2, 5, 8)), name="b")
    )
    program = lower(y=y)
    assert kinds(program) == ["contraction"] * 3
    offsets = {
        call.operands[0].offset for call in program.calls if call.operands[0].buffer.space is Space.ARENA
    }
    assert offsets == {0, 8 * 4}
    check_outputs(y=y)


def test_rows_with_gaps_are_compacted_before_they_are_reshaped() -> None:
    part = build("slice", X, axis=2, start=2, stop=6)
    outputs = {"same_rows": build("silu", build("reshape", part, shape=(10, 4)))}
    assert "copy" not in kinds(lower(**outputs))
    outputs["other_rows"] = build("silu", build("reshape", part, shape=(2, 20)))
    assert kinds(lower(**outputs)).count("copy") == 1
    check_outputs(**outputs)


def test_long_rows_are_padded_and_still_right() -> None:
    """Rows of a multiple of 4 KiB get a gap, which no kernel may read or write."""
    wide = build("silu", source("wide", (3, 1024)))
    outputs = {"y": build("softmax", wide), "z": build("reshape", wide, shape=(6, 512))}
    program = lower(**outputs)
    assert program.calls[0].writes.bytes > 3 * 4096
    check_outputs(**outputs)


@pytest.mark.parametrize(
    "alias",
    [
        build("reshape", X, shape=(10, 8)),
        build("slice", X, axis=0, start=1, stop=2),
        build("slice", X, axis=2, start=3, stop=8),
        build("reshape", build("silu", X), shape=(10, 8)),
        X,
    ],
    ids=["reshape", "rows", "columns", "reshape_of_a_result", "input"],
)
def test_outputs_that_are_views_are_copied(alias: Node) -> None:
    program = lower(y=alias)
    assert kinds(program)[-1] == "copy"
    assert program.calls[-1].writes.space is Space.OUTPUT
    check_outputs(y=alias)


def test_a_number_from_a_vector_of_one() -> None:
    check_outputs(y=build("reshape", build("silu", source("t", (1,))), shape=()))


def test_concatenation_writes_parts_of_one_buffer() -> None:
    y = build("concat", X, build("silu", X), weight("constant", (2, 5, 3)), axis=2)
    program = lower(y=y)
    parts = [call.operands[call.written] for call in program.calls if call.label == "concat"]
    assert {part.buffer.name for part in parts} == {"y"}
    assert [part.offset for part in parts] == [0, 4 * 8, 4 * 16]
    check_outputs(y=y)


MAP = source("map", (2, 5, 6, 16))
JOINED = build("concat", MAP, build("silu", MAP), build("tanh", source("other", (2, 5, 6, 9))), axis=3)


def test_concatenated_rows_of_a_matmul_are_read_where_they_are() -> None:
    y = linear(JOINED, 12)
    program = lower(y=y)
    assert kinds(program) == ["pointwise", "pointwise", "contraction"]
    contraction = program.calls[-1].kernel
    assert isinstance(contraction, Contraction)
    assert [part.depth for part in (contraction.geometry, *contraction.others)] == [16, 16, 9]
    check_outputs(y=y)


def test_concatenated_maps_of_a_normalised_convolution_are_read_where_they_are() -> None:
    parameters = (weight("gamma", (41,)), weight("beta", (41,)))
    norm = build("silu", build("group_norm", JOINED, *parameters, groups=1, eps=1e-5))
    filters = weight("filters", (8, 41, 3, 3))
    y = winograd_stages(build("conv2d", norm, filters, stride=1, padding=(1, 1, 1, 1)), m=4)
    program = lower(y=y)
    assert kinds(program) == ["pointwise"] * 2 + ["group_norm_statistics"] * 3 + [
        "group_norm_combine", "winograd_input", "winograd",
    ]  # fmt: skip
    check_outputs(y=y)


@pytest.mark.parametrize(
    ("joined", "outputs"),
    [
        (JOINED, lambda x: {"y": linear(x), "z": build("silu", x)}),
        (JOINED, lambda x: {"y": linear(x), "x": x}),
        (JOINED, lambda x: {"y": build("add", linear(x, 41), x)}),
        (build("concat", source("odd", (2, 5, 9)), X, axis=2), lambda x: {"y": linear(x)}),
        (build("concat", X, X, axis=1), lambda x: {"y": linear(x)}),
    ],
    ids=["another_reader", "output", "residual", "parts_of_a_vector", "joined_rows"],
)
def test_concatenations_that_must_exist_are_copied(
    joined: Node, outputs: Callable[[Node], dict[str, Node]]
) -> None:
    program = lower(**outputs(joined))
    assert [call.label for call in program.calls].count("concat") == len(joined.operands)
    check_outputs(**outputs(joined))


def test_every_value_is_written_before_it_is_read() -> None:
    program = lower(
        y=build("add", geglu(linear(X, 8), 6), linear(X)), z=build("softmax", linear(X, name="z"))
    )
    written = set()
    for call in program.calls:
        unwritten = [b for b in call.reads if b.space in (Space.ARENA, Space.OUTPUT) and b not in written]
        assert not unwritten
        written.add(call.writes)


def test_carried_state_is_one_buffer_for_both_programs() -> None:
    """The program that leaves it and the one that reads it agree on memory, rows of 4 KiB included."""
    first = Graph("net.prompt@8x8x1", {"carry.0": linear(source("context", (1, 3, 8)), 1024)})
    carried = build("input", name="carry.0", rate="prompt", shape=(1, 3, 1024), dtype="f32")
    second = Graph("net@8x8x1", {"y": build("softmax", carried)})
    fuse = FuseKernels(TARGET, "f32")
    programs = [fuse.lower(first), fuse.lower(second)]
    assert programs[0].calls[-1].writes is programs[1].calls[0].reads[0]
    assert programs[0].calls[-1].writes.space is Space.STATE
    assert programs[0].outputs == {}
    assert programs[1].inputs == {}
    check(first, second)


def test_networks_do_not_share_state() -> None:
    fuse = FuseKernels(TARGET, "f32")
    for name in ("a.prompt@8x8x1", "a.prompt@8x8x2", "b.prompt@8x8x1"):
        fuse.lower(Graph(name, {"carry.0": build("silu", X)}))
    assert len(set(fuse.state.values())) == 3


def test_programs_share_weights() -> None:
    """One matrix is one piece of the payload, however many programs read it."""
    matrix = weight("w", (6, 8))
    graphs = [Graph(name, {"y": build("matmul", X, matrix)}) for name in ("a", "b")]
    fuse = FuseKernels(TARGET, "f32")
    first, second = (fuse.lower(graph).calls[0].operands[1].buffer for graph in graphs)
    assert first is second
    assert len(fuse.weight_buffers) == 1


# Element types of stored matrices

LARGE = (SMALL_MATRIX // 8 + 1, 8)
DTYPES = {
    ("auto", "f16", (6, 8)): DType.F16,
    ("auto", "f32", (6, 8)): DType.F32,
    ("auto", "f32", LARGE): DType.F16,
    ("f16", "f32", (6, 8)): DType.F16,
    ("f32", "f16", (6, 8)): DType.F32,
}


@pytest.mark.parametrize(("policy", "stored", "shape"), DTYPES, ids=[f"{p}-{s}-{n[0]}" for p, s, n in DTYPES])
def test_matrix_dtype(policy: str, stored: str, shape: tuple[int, int]) -> None:
    program = lower(policy, y=build("matmul", X, weight("w", shape, dtype=stored)))
    kernel = program.calls[0].kernel
    assert isinstance(kernel, Contraction)
    assert kernel.weight_dtype == DTYPES[policy, stored, shape].value


def test_biases_and_norms_stay_f32() -> None:
    norm = build("layer_norm", linear(X), weight("gamma", (6,)), weight("beta", (6,)), eps=1e-5)
    fuse = FuseKernels(TARGET, "f16")
    fuse.lower(Graph("g", {"y": norm}))
    sizes = {packed.node.text("name"): buffer.bytes for packed, buffer in fuse.weight_buffers.items()}
    assert sizes["gamma"] == sizes["beta"] == 6 * 4
    assert sizes["layer.bias"] % 4 == 0
    assert sizes["layer.weight"] == 8 * sizes["layer.bias"] // 2


# What cannot be lowered

PADDED = build("conv2d", IMAGE, weight("c", (6, 8, 3, 3)), stride=1, padding=(1, 1, 1, 1))
GAMMA = source("gamma", (8,))
REFUSED = {
    "cast": ({"y": build("cast", X, dtype="f16")}, "cast"),
    "kron": ({"y": build("kron", X, X)}, "kron"),
    "padding": ({"y": PADDED}, "expose_padding"),
    "input_as_output": ({"y": source("i", (2,), dtype="i32")}, "output y"),
    "constant_as_output": ({"y": weight("w", (3,))}, "output y"),
    "output_twice": (dict.fromkeys(("a", "b"), build("silu", X)), "output b"),
    "matrix_at_run_time": ({"y": build("matmul", X, source("w", (6, 8)))}, "matmul"),
    "filter_at_run_time": (
        {"y": build("conv2d", IMAGE, source("w", (6, 8, 1, 1)), stride=1, padding=(0, 0, 0, 0))}, "conv2d",
    ),
    "gamma_at_run_time": ({"y": build("layer_norm", X, GAMMA, weight("b", (8,)), eps=1e-5)}, "layer_norm"),
    "group_gamma_at_run_time": (
        {"y": build("group_norm", X, GAMMA, weight("b", (8,)), groups=2, eps=1e-5)}, "group_norm",
    ),
    "table_at_run_time": (
        {"y": build("gather", source("t", (5, 8)), source("i", (2,), dtype="i32"))}, "gather",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("outputs", "named"), REFUSED.values(), ids=REFUSED)
def test_refused(outputs: dict[str, Node], named: str) -> None:
    """The error names the node or output; nothing fails later, when weights are packed or kernels run."""
    with pytest.raises(PassError, match=named):
        lower(**outputs)
