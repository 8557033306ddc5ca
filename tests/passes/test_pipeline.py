"""The pipeline as a whole on a small complete model, and how passes are run and named."""

from dataclasses import dataclass
from typing import ClassVar

import pytest

from sdcomp.errors import UsageError, VerifyError
from sdcomp.frontend.family import expected_tensors
from sdcomp.frontend.lower import lower_model
from sdcomp.ir.compare import equal
from sdcomp.ir.count import multiplies
from sdcomp.ir.graph import Graph, Module, Node
from sdcomp.ir.types import TensorType
from sdcomp.passes.base import Pass
from sdcomp.passes.expose_padding import ExposePadding
from sdcomp.passes.fold_constants import FoldConstants
from sdcomp.passes.fold_upsample import FoldUpsample
from sdcomp.passes.pipeline import PipelineOptions, pipeline, run_pipeline
from sdcomp.passes.registry import create_pass, pass_names
from sdcomp.passes.rewrite_winograd import RewriteWinograd
from tests.checkpoints import SMALL
from tests.passes.graphs import module, source


@pytest.fixture(autouse=True)
def _verify_every_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDCOMP_VERIFY", "1")


def _small_model() -> Module:
    types = {name: TensorType(shape) for name, shape in expected_tensors(SMALL).items()}
    return lower_model(SMALL, types, [(16, 16), (32, 16)], batches=(1, 2))


def test_small_model_passes_through_every_pass() -> None:
    seen: list[str] = []
    before = _small_model()
    after = run_pipeline(pipeline(PipelineOptions()), before, lambda name, _: seen.append(name))
    assert seen == [step.name for step in pipeline(PipelineOptions())]
    assert {graph.name for graph in before} <= {graph.name for graph in after}
    nodes = {node for graph in after for node in graph.nodes()}
    assert all(node.integers("padding") == (0, 0, 0, 0) for node in nodes if node.op == "conv2d")
    weights = [node.text("name") for node in nodes if node.op == "weight"]
    assert sorted(weights) == sorted(expected_tensors(SMALL))  # each once, over all sizes and programs


def test_splitting_and_sharing_multiply_no_more_than_before() -> None:
    """Without the passes that replace multiplies by fewer: then the counts must agree to the last one."""
    fewer = (FoldUpsample, RewriteWinograd)
    passes = [step for step in pipeline(PipelineOptions()) if not isinstance(step, fewer)]
    before, after = _small_model(), run_pipeline(passes, _small_model())
    whole = {graph.name: multiplies(graph) for graph in before}
    parts = {graph.name: multiplies(graph) for graph in after}
    for size in ("16x16", "32x16"):
        for batch in (1, 2):
            name = f"unet@{size}x{batch}"
            split = [f"unet.prompt@{size}x{batch}", f"unet.step@{size}x{batch}", name]
            total = sum(parts[part] for part in split)
            assert total == whole[name] if batch == 1 else total < whole[name]
            assert all(parts[part] > 0 for part in split)


@dataclass(frozen=True)
class _Break(Pass):
    name: ClassVar[str] = "break_types"

    def apply(self, module: Module) -> Module:
        x = source("x", (4,))
        wrong = Node("silu", (x,), {}, TensorType((5,)))
        return Module((Graph("g", {"y": wrong}),))


def test_a_pass_that_breaks_the_module_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(VerifyError, match=r"after break_types: .*silu"):
        run_pipeline([_Break()], module(y=source("x", (4,))))
    monkeypatch.setenv("SDCOMP_VERIFY", "0")
    run_pipeline([_Break()], module(y=source("x", (4,))))


def test_registry_knows_every_pass_but_those_that_need_files() -> None:
    names = [step.name for step in pipeline(PipelineOptions())]
    assert sorted({*pass_names(), "apply_adapters"}) == sorted(names)
    for name in pass_names():
        assert create_pass(name).name == name


def test_registry_reads_options_and_dashes() -> None:
    assert create_pass("fold-constants{limit=64}") == FoldConstants(limit=64)
    assert create_pass(" fold_constants{} ") == FoldConstants()
    assert create_pass("expose-padding") == ExposePadding()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fold_everything", "no such pass; known are fold_kronecker, "),
        ("fold_constants{limit}", r"no option 'limit'; its options are limit=\d+"),
        ("fold_constants{depth=2}", "no option 'depth=2'"),
        ("fold_constants{limit=many}", "option limit must be of kind int, got 'many'"),
        ("expose_padding{limit=2}", "its options are none"),
        ("fold_constants{limit=2", "expected NAME or NAME{OPTION=VALUE"),
    ],
)
def test_registry_refuses(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        create_pass(text)


def test_pipeline_is_idempotent() -> None:
    once = run_pipeline(pipeline(PipelineOptions()), _small_model())
    assert equal(run_pipeline(pipeline(PipelineOptions()), once), once)
