"""Whole networks as graphs, without their weights, and the calls that they become."""

from collections import Counter
from dataclasses import replace

from sdcomp.codegen.costs import shipped_costs
from sdcomp.codegen.kernels.attention import Attention
from sdcomp.codegen.kernels.contraction import Contraction
from sdcomp.codegen.kernels.winograd import WinogradConvolution
from sdcomp.codegen.plan import Call, Program
from sdcomp.codegen.targets import Target
from sdcomp.frontend.config import ModelConfig
from sdcomp.frontend.family import expected_tensors
from sdcomp.frontend.lower import lower_model
from sdcomp.ir.graph import Module
from sdcomp.ir.types import DType, TensorType
from sdcomp.passes.fuse_kernels import FuseKernels
from sdcomp.passes.pipeline import PipelineOptions, pipeline, run_pipeline
from tests.checkpoints import SMALL

SD15 = replace(
    SMALL,
    unet=replace(
        SMALL.unet,
        model_channels=320,
        channel_mult=(1, 2, 4, 4),
        transformer_depth=(1, 1, 1, 0),
        context_channels=768,
    ),
    text=replace(SMALL.text, width=768, layers=12, heads=12, mlp_width=3072),
    vae=replace(SMALL.vae, channels=128, channel_mult=(1, 2, 4, 4)),
)
"""Stable Diffusion 1.5."""


def lower_stored(config: ModelConfig, size: tuple[int, int], dtype: DType = DType.F16) -> Module:
    """All networks of a checkpoint of which only names and shapes need exist; `size` is (width, height) in
    pixels.
    """
    shapes = expected_tensors(config)
    return lower_model(config, {name: TensorType(shape, dtype) for name, shape in shapes.items()}, [size])


def optimise(module: Module, target: Target) -> Module:
    """After all graph passes of a build for this target."""
    return run_pipeline(pipeline(PipelineOptions(costs=shipped_costs(target))), module)


def programs(config: ModelConfig, size: tuple[int, int], target: Target) -> list[Program]:
    """Every program of the model, with matrices stored as `auto` says."""
    fuse = FuseKernels(target, "auto")
    return [fuse.lower(graph) for graph in optimise(lower_stored(config, size), target)]


def listing(program: Program) -> str:
    """One line per call: kind, what is multiplied or written, and the label. Tile sizes, which are tuned,
    are left out.
    """
    return "".join(f"{call.kernel.kind} | {shape(call)} | {call.label}\n" for call in program.calls)


def shape(call: Call) -> str:
    """Rows x columns x depth of a product; bytes written by what does not multiply."""
    kernel = call.kernel
    if isinstance(kernel, Contraction):
        where = kernel.geometry
        taps = f" taps {len(where.taps)}" if len(where.taps) > 1 else ""
        rows = where.batches * where.outer * where.inner
        return f"{rows}x{kernel.columns}x{kernel.depth}{taps} {epilogue(kernel)}" + " +geglu" * kernel.gated
    if isinstance(kernel, WinogradConvolution):
        grid = kernel.grid
        rows = grid.batches * grid.height * grid.width
        upsampled = f" of {grid.scale}x" * (grid.scale > 1)
        return f"{rows}x{kernel.columns}x{grid.depth} F({grid.m},3){upsampled} {epilogue(kernel)}"
    if isinstance(kernel, Attention):
        heads = f"{kernel.batches}x{kernel.heads} heads of {kernel.channels}"
        return f"{heads}, {kernel.queries} queries, {kernel.keys} keys"
    return f"{kernel.multiplies} multiplies" if kernel.multiplies else f"{call.writes.bytes} bytes"


def epilogue(kernel: Contraction | WinogradConvolution) -> str:
    """The stored type of the weights, and the steps."""
    return kernel.weight_dtype + "".join(f" +{step.kind}" for step in kernel.steps)


def kinds(program: Program) -> str:
    """How many calls of each kind, on one line."""
    counts = Counter(call.kernel.kind for call in program.calls)
    return f"{program.name}: {len(program.calls)}: " + ", ".join(
        f"{n} {kind}" for kind, n in sorted(counts.items())
    )
