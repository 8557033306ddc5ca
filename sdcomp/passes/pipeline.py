"""The pipeline: every pass, in order, here and nowhere else.

`pipeline` rewrites graphs, `plan` turns them into kernel calls.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from sdcomp.codegen.costs import Costs
from sdcomp.codegen.tables import PlannedProgram
from sdcomp.codegen.targets import DEFAULT_TARGET, Target
from sdcomp.ir.graph import Module
from sdcomp.passes.apply_adapters import AdapterPlan, ApplyAdapters
from sdcomp.passes.base import Pass
from sdcomp.passes.eliminate_common import EliminateCommon
from sdcomp.passes.eliminate_dead import EliminateDead
from sdcomp.passes.expose_padding import ExposePadding
from sdcomp.passes.fold_constants import FoldConstants
from sdcomp.passes.fold_kronecker import FoldKronecker
from sdcomp.passes.fold_upsample import FoldUpsample
from sdcomp.passes.fuse_kernels import FuseKernels
from sdcomp.passes.pack_projections import PackProjections
from sdcomp.passes.plan_memory import plan_memory
from sdcomp.passes.rewrite_winograd import RewriteWinograd
from sdcomp.passes.share_cfg_prefix import ShareCfgPrefix
from sdcomp.passes.split_parallel import split_parallel
from sdcomp.passes.split_rates import SplitRates

Observer = Callable[[str, Module], None]


@dataclass(frozen=True)
class PipelineOptions:
    """What a build may choose."""

    adapters: AdapterPlan = field(default_factory=AdapterPlan)
    costs: Costs = field(default_factory=lambda: Costs.parse(DEFAULT_TARGET))
    """What kernels cost on the target: which algorithm a convolution gets."""


def pipeline(options: PipelineOptions) -> list[Pass]:
    """The passes of a build, in order."""
    return [
        ApplyAdapters(options.adapters),  # W becomes W + delta, as an expression
        FoldKronecker(),  # the cheapest form of every delta
        SplitRates(),  # one program per prompt, per step, per evaluation
        ShareCfgPrefix(),  # both guidance rows at once, until they differ
        PackProjections(),  # queries, keys and values of self-attention from one product
        FoldUpsample(options.costs),  # upsampling becomes part of the convolution behind it
        RewriteWinograd(options.costs),  # 3x3 convolutions as F(m x m, 3 x 3), where select_conv says so
        EliminateCommon(),  # one node per value, over all programs and sizes
        EliminateDead(),  # carried values that nobody reads
        FoldConstants(),  # constants evaluated, nodes that do nothing dropped
        ExposePadding(),  # what is left of convolution reads maps that have their border
    ]


def plan(module: Module, target: Target, weights: str) -> Iterator[PlannedProgram]:
    """The lowered graphs, one by one, as programs of kernel calls for a target; `weights` is how matrices
    are stored.
    """
    fuse = FuseKernels(target, weights)
    for graph in module:
        program = fuse.lower(graph)  # groups of nodes become kernel calls over buffers
        schedule = split_parallel(program)  # which calls wait for which: the rest may overlap
        yield PlannedProgram(
            schedule, plan_memory(schedule)
        )  # a place for every buffer that overlaps none in use


def run_pipeline(passes: Iterable[Pass], module: Module, observe: Observer | None = None) -> Module:
    """`module` after all passes; `observe` is called with the name of each and the module it made.

    With SDCOMP_VERIFY=1 the module is verified before the first pass and after each: VerifyError then names
    the pass.
    """
    check = os.environ.get("SDCOMP_VERIFY") == "1"
    if check:
        _verify(module, "before the first pass")
    for step in passes:
        module = step.apply(module)
        if check:
            _verify(module, f"after {step.name}")
        if observe is not None:
            observe(step.name, module)
    return module


def _verify(module: Module, when: str) -> None:
    from sdcomp.errors import VerifyError
    from sdcomp.ir.verify import verify

    try:
        verify(module)
    except VerifyError as error:
        raise VerifyError(f"{when}: {error}") from error
