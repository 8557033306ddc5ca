"""What adapters cost at run time, in multiplies of the kernels of Stable Diffusion 1.5 at 512x512."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from sdcomp.codegen.costs import shipped_costs
from sdcomp.codegen.plan import Program
from sdcomp.codegen.targets import TARGETS
from sdcomp.frontend.adapters import Adapter, Group, match, open_adapter
from sdcomp.frontend.synthetic_lokr import write_random_lokr
from sdcomp.passes.apply_adapters import AdapterPlan
from sdcomp.passes.fuse_kernels import FuseKernels
from sdcomp.passes.pipeline import PipelineOptions, pipeline, run_pipeline
from tests.codegen.networks import SD15, listing, lower_stored

TARGET = TARGETS["x86-64-v3"]
EVALUATION = ("unet.step@512x512x2", "unet@512x512x2")
"""The programs of one evaluation with guidance."""

Chosen = Callable[[Group], bool]


def is_linear(group: Group) -> bool:
    """Attention and feed-forward layers."""
    return "_attn" in group.module or "_ff_" in group.module or "mlp" in group.module


@pytest.fixture(scope="module")
def adapter_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoKr of factor 8, whole factors, for every attention, feed-forward and convolution module."""
    path = tmp_path_factory.mktemp("lokr") / "style.safetensors"
    write_random_lokr(path, SD15, factor=8)
    return path


@pytest.fixture(scope="module")
def base() -> dict[str, Program]:
    return plan(AdapterPlan())


def plan(adapters: AdapterPlan) -> dict[str, Program]:
    """The programs of one evaluation; no number of a weight is read."""
    module = lower_stored(SD15, (512, 512))
    passes = pipeline(PipelineOptions(adapters, shipped_costs(TARGET)))
    fuse = FuseKernels(TARGET, "auto")
    graphs = run_pipeline(passes, module).graphs
    return {graph.name: fuse.lower(graph) for graph in graphs if graph.name in EVALUATION}


def planned(path: Path, live: bool, chosen: Chosen = lambda group: True) -> dict[str, Program]:
    with open_adapter(path, is_live=live) as adapter:
        part: Adapter = replace(adapter, groups=tuple(filter(chosen, adapter.groups)))
        return plan(match([part], SD15))


def multiplies(programs: dict[str, Program]) -> int:
    return sum(program.multiplies for program in programs.values())


def test_folded_adapter_costs_nothing(base: dict[str, Program], adapter_file: Path) -> None:
    """The same kernels, call by call."""
    folded = planned(adapter_file, live=False)
    for name in EVALUATION:
        assert [call.kernel for call in folded[name].calls] == [call.kernel for call in base[name].calls]


@pytest.mark.parametrize(("chosen", "limit"), [(is_linear, 0.005), (lambda group: True, 0.01)])
def test_live_lokr(base: dict[str, Program], adapter_file: Path, chosen: Chosen, limit: float) -> None:
    """Of linear layers, and of everything; by no kernel of its own, all within those of the weights."""
    live = planned(adapter_file, live=True, chosen=chosen)
    added = multiplies(live) / multiplies(base) - 1
    assert 0 < added < limit
    assert listing(live["unet@512x512x2"]) == listing(base["unet@512x512x2"])
