"""Random small graphs: interpreter in f64, onnxruntime on the exported graph, and compiled kernels agree.

SDCOMP_RANDOM_GRAPHS=2000 runs that many, no two of a shard equal; the same command draws the same ones. They
come in `SHARDS` tests, so that pytest's -n has something to divide.
"""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import hypothesis
import numpy as np
import onnx
import onnxruntime
import pytest

from sdcomp.codegen.costs import shipped_costs
from sdcomp.codegen.kernels import vectormath
from sdcomp.codegen.onnx.data import WeightStore
from sdcomp.codegen.onnx.extents import Extents
from sdcomp.codegen.onnx.model import write_model
from sdcomp.codegen.onnx.operators import LOWERINGS
from sdcomp.codegen.targets import resolve
from sdcomp.ir.graph import Graph, Module
from sdcomp.ir.interpret import interpret
from sdcomp.ir.ops import build
from sdcomp.ir.text import print_module
from sdcomp.ir.types import Array
from sdcomp.ir.verify import verify
from sdcomp.passes.fuse_kernels import FuseKernels
from sdcomp.passes.pipeline import PipelineOptions, pipeline, run_pipeline
from tests.codegen.jit import run_programs
from tests.differential.compare import reference
from tests.differential.graphs import random_graphs, random_inputs, read_weight
from tests.passes.graphs import error

COUNT = int(os.environ.get("SDCOMP_RANDOM_GRAPHS", "60"))
SHARDS = 4

BOUND = 3e-6
"""Dozens of f32 operations on values near one."""

PASSES_MAKE = {"winograd_filter", "winograd_input", "winograd_multiply", "winograd_output"}

NO_KERNEL = {"cast"}
"""Element types of activations do not change at run time."""


def _expected(graph: Graph) -> dict[str, Array]:
    return reference([graph], random_inputs(graph), lambda node: read_weight(node).astype(np.float64))


def _in_onnxruntime(graph: Graph, folder: Path) -> dict[str, Array]:
    path = folder / "graph.onnx"
    with open(folder / "weights", "wb") as file:
        store = WeightStore(file, "weights", read_weight, "f32")
        write_model(graph, path, Extents.fixed(graph), store, lambda done, total: None)
    onnx.checker.check_model(str(path), full_check=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return dict(zip(graph.outputs, session.run(None, random_inputs(graph)), strict=True))


def _compiled(graph: Graph) -> dict[str, Array]:
    fuse = FuseKernels(resolve("native"), "f32")
    module = run_pipeline(pipeline(PipelineOptions(costs=shipped_costs(fuse.target))), Module((graph,)))
    programs = [fuse.lower(part) for part in module]
    return run_programs(programs, fuse.target, random_inputs(graph), read_weight)


def _differences(graph: Graph, found: dict[str, Array], expected: dict[str, Array]) -> dict[str, float]:
    """Outputs that are further from the reference than rounding takes them.

    A normalisation of nearly equal values magnifies rounding: the interpreter in f32 shows by how much.
    """
    assert set(found) == set(expected)
    rounded = interpret(graph, random_inputs(graph), read_weight)
    errors = {name: _error(found[name], value) for name, value in expected.items()}
    bounds = {name: max(BOUND, 4 * _error(rounded[name], value)) for name, value in expected.items()}
    return {name: value for name, value in errors.items() if not value <= bounds[name]}


def _error(found: Array, expected: Array) -> float:
    return error(found.astype(np.float64), expected)


def _for_each_graph(check: Callable[[Graph], None], count: int, seed: int = 0, shrink: bool = False) -> None:
    """Calls `check` with `count` different graphs, and where one fails, with smaller ones that fail too."""
    passed: set[str] = set()

    def check_once(graph: Graph) -> None:
        text = print_module(Module((graph,)))
        hypothesis.assume(text not in passed)
        hypothesis.note(text)
        check(graph)
        passed.add(text)

    phases = [hypothesis.Phase.generate, *([hypothesis.Phase.shrink] if shrink else [])]
    options = hypothesis.settings(
        max_examples=count,
        phases=phases,
        deadline=None,
        database=None,
        report_multiple_bugs=False,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    hypothesis.seed(seed)(options(hypothesis.given(random_graphs())(check_once)))()
    assert len(passed) == count


@pytest.mark.parametrize("shard", range(SHARDS))
def test_all_agree(shard: int) -> None:
    def check(graph: Graph) -> None:
        verify(Module((graph,)))
        expected = _expected(graph)
        with tempfile.TemporaryDirectory() as folder:
            assert not _differences(graph, _in_onnxruntime(graph, Path(folder)), expected)
        assert not _differences(graph, _compiled(graph), expected)

    _for_each_graph(check, -(-COUNT // SHARDS), shard, shrink=True)


def test_what_does_nothing_at_a_change_of_rate_hands_on_an_input() -> None:
    """It is dropped, and what is left is state that equals an input."""
    slow = build("input", name="x.1", rate="prompt", shape=(1, 6, 20), dtype="f32")
    fast = build("input", name="x.2", rate="eval", shape=(1, 6, 20), dtype="f32")
    graph = Graph("random", {"y": build("add", build("slice", slow, axis=0, start=0, stop=1), fast)})
    assert not _differences(graph, _compiled(graph), _expected(graph))


def test_every_operation_occurs() -> None:
    seen: set[str] = set()
    _for_each_graph(lambda graph: seen.update(node.op for node in graph.nodes()), 300)
    assert set(LOWERINGS) - PASSES_MAKE - NO_KERNEL <= seen


def test_finds_a_bug_planted_in_a_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """An exponential that is a ten-thousandth too large."""
    right = vectormath.exp2_coefficients

    def wrong(degree: int, first: float) -> tuple[float, ...]:
        return tuple(1.0001 * c for c in right(degree, first))

    monkeypatch.setattr(vectormath, "exp2_coefficients", wrong)

    def check(graph: Graph) -> None:
        assert not _differences(graph, _compiled(graph), _expected(graph))

    with pytest.raises(AssertionError):
        _for_each_graph(check, 10)
