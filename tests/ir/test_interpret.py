"""The interpreter: inputs checked, precision kept, values freed. `test_references` tests the operations."""

import weakref

import numpy as np
import pytest

from sdcomp.errors import ExecutionError
from sdcomp.ir.graph import Graph, Node
from sdcomp.ir.interpret import evaluate, interpret
from sdcomp.ir.ops import OPS, Op, build
from sdcomp.ir.types import Array


def source(op: str, name: str, *shape: int, dtype: str = "f32") -> Node:
    last = {"rate": "eval"} if op == "input" else {"file": "model"}
    return build(op, name=name, shape=shape, dtype=dtype, **last)


X = source("input", "x", 2, 3)
W = source("weight", "w", 4, 3)
LINEAR = Graph("linear", {"y": build("matmul", X, W), "x": X})


def ones(node: Node) -> Array:
    return np.ones(node.shape, np.float32)


def test_outputs_are_named_and_may_be_inputs() -> None:
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    found = interpret(LINEAR, {"x": x}, ones)
    assert list(found) == ["y", "x"]
    assert np.array_equal(found["y"], np.repeat(x.sum(1, keepdims=True), 4, 1))
    assert np.array_equal(found["x"], x)


@pytest.mark.parametrize(
    ("values", "weights", "expected"),
    [
        (np.float64, np.float64, np.float64),
        (np.float32, np.float16, np.float32),
        (np.float64, np.float16, np.float64),
    ],
)
def test_precision_follows_the_operands(values: type, weights: type, expected: type) -> None:
    found = interpret(LINEAR, {"x": np.ones((2, 3), values)}, lambda node: np.ones(node.shape, weights))
    assert found["y"].dtype == expected


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, r"inputs are \['x'\], but it was given \[\]"),
        ({"x": np.ones((2, 3)), "z": np.ones(1)}, r"given \['x', 'z'\]"),
        ({"x": np.ones((3, 2))}, r"input x must be f32\[2,3\], but is float64 of shape \[3, 2\]"),
        ({"x": np.ones((2, 3), np.int32)}, r"input x must be f32\[2,3\], but is int32"),
    ],
)
def test_wrong_inputs_are_refused(inputs: dict[str, Array], message: str) -> None:
    with pytest.raises(ExecutionError, match=message):
        interpret(LINEAR, inputs, ones)


def test_weight_of_wrong_shape_is_named() -> None:
    with pytest.raises(ExecutionError, match=r"weight w: expected shape \[4, 3\], found \[3, 4\]"):
        interpret(LINEAR, {"x": np.ones((2, 3))}, lambda node: np.ones((3, 4)))


@pytest.mark.parametrize("token", [-1, 4])
def test_token_outside_the_table_is_refused(token: int) -> None:
    gather = build("gather", W, source("input", "tokens", 2, dtype="i32"))
    with pytest.raises(ExecutionError, match="the table has 4 rows"):
        interpret(Graph("embed", {"y": gather}), {"tokens": np.array([0, token])}, ones)


def test_weight_expression_is_evaluated() -> None:
    delta = build("kron", source("weight", "w1", 2, 2), source("weight", "w2", 3, 1))
    scale = build("constant", values=(0.5,), shape=(), dtype="f32")
    found = evaluate(build("mul", delta, scale), ones)
    assert np.array_equal(found, np.full((6, 2), 0.5))


def test_expression_of_an_input_is_no_weight() -> None:
    with pytest.raises(ExecutionError, match="inputs are"):
        evaluate(LINEAR.outputs["y"], ones)


def test_values_are_freed_after_their_last_use(monkeypatch: pytest.MonkeyPatch) -> None:
    alive: list[weakref.ref[Array]] = []
    most = 0

    def double(operands: tuple[Array, ...], attributes: object) -> Array:
        nonlocal most
        result = operands[0] * 2
        alive.append(weakref.ref(result))
        most = max(most, sum(reference() is not None for reference in alive))
        return result

    row = OPS["silu"]
    monkeypatch.setitem(OPS, "silu", Op(row.name, row.arity, row.attributes, row.infer, double, row.meaning))
    node = X
    for _ in range(8):
        node = build("silu", node)
    found = interpret(Graph("chain", {"y": node}), {"x": np.ones((2, 3))}, ones)
    assert found["y"][0, 0] == 2**8
    assert most == 2
