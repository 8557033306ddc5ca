"""build(): from files to an artifact, stage by stage."""

import os
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdcomp import __version__
from sdcomp.codegen.artifact import Inspect, Progress, Recipe, write_artifact
from sdcomp.codegen.costs import load_costs
from sdcomp.codegen.magnitudes import check_magnitudes
from sdcomp.codegen.targets import resolve
from sdcomp.errors import UsageError
from sdcomp.frontend.adapters.match import match
from sdcomp.frontend.adapters.reader import Adapter, open_adapter
from sdcomp.frontend.checkpoint import Checkpoint
from sdcomp.frontend.config import ModelConfig
from sdcomp.frontend.family import describe, detect
from sdcomp.frontend.lower import lower_model
from sdcomp.frontend.tokenizer import Tokenizer
from sdcomp.frontend.weights import WeightSource
from sdcomp.ir.types import TensorType
from sdcomp.passes.apply_adapters import AdapterPlan
from sdcomp.passes.fold_upsample import FoldUpsample
from sdcomp.passes.order_factors import live_orders
from sdcomp.passes.pipeline import Observer, PipelineOptions, pipeline, run_pipeline
from sdcomp.passes.select_conv import decisions

WEIGHT_POLICIES = ("auto", "f32", "f16")
DEFAULT_SIZE = (512, 512)


@dataclass(frozen=True)
class AdapterFile:
    """An adapter and how strongly it is applied: to the text encoder by `te_strength`, else by `strength`.

    A `live` adapter is not folded in: its strengths are defaults that a run may replace.
    """

    path: Path
    strength: float = 1.0
    te_strength: float | None = None
    live: bool = False


@dataclass(frozen=True)
class BuildOptions:
    """What a build may choose; the command line's options have the same names.

    `sizes` are (width, height) in pixels; `threads` is what the artifact uses when `run` is not told (0: all
    CPUs).
    """

    adapters: Sequence[AdapterFile] = ()
    sizes: Sequence[tuple[int, int]] = (DEFAULT_SIZE,)
    weights: str = "auto"
    target: str = "native"
    threads: int = 0
    split_weights: bool = False
    allow_unmatched: bool = False
    prediction: str | None = None
    heads: int | None = None


def build(
    model: Path | str,
    output: Path | str,
    options: BuildOptions | None = None,
    progress: Progress | None = None,
    observe: Observer | None = None,
    inspect: Inspect | None = None,
) -> dict[str, Any]:
    """Compiles a checkpoint with its adapters into `output`; returns the artifact's manifest.

    `progress(stage, done, total)` is called as work goes on; `observe(pass, module)` after every pass;
    `inspect(kernels, target)` before the kernels are compiled.
    Raises an SdcompError of the phase that failed; nothing is left behind then.
    """
    options = options or BuildOptions()
    output = Path(output)
    _check(output, options)
    target = resolve(options.target)
    costs = load_costs(target)
    with ExitStack() as stack:
        checkpoint = stack.enter_context(Checkpoint.open(model))
        config = detect(checkpoint, options.prediction, options.heads)
        adapters = [
            stack.enter_context(open_adapter(a.path, a.strength, a.te_strength, a.live))
            for a in options.adapters
        ]
        _check_names(adapters)
        plan = match(adapters, config, options.allow_unmatched)
        types = {name: TensorType(info.shape, info.dtype) for name, info in checkpoint.tensors.items()}
        module = lower_model(config, types, options.sizes)
        passes = pipeline(PipelineOptions(plan, costs))
        first = [step.name for step in passes].index(FoldUpsample.name)
        module = run_pipeline(passes[:first], module, observe)
        source = WeightSource(checkpoint, adapters)
        check_magnitudes(module, source.read_weight, options.weights)
        choices = {"costs": costs.describe(), "convolutions": list(decisions(module, costs))}
        module = run_pipeline(passes[first:], module, observe)
        recipe = Recipe(
            module,
            source.read_weight,
            target,
            options.weights,
            _manifest(checkpoint, config, adapters, plan, options) | choices | {"live": live_orders(module)},
            {"tokenizer": Tokenizer.default().to_bytes()},
            options.split_weights,
            inspect,
        )
        return write_artifact(recipe, output, progress or _silent)


def _check(output: Path, options: BuildOptions) -> None:
    """What can be refused before any work."""
    if options.weights not in WEIGHT_POLICIES:
        raise UsageError(f"--weights {options.weights}: expected one of {', '.join(WEIGHT_POLICIES)}")
    if not options.sizes:
        raise UsageError("--size: at least one size is needed")
    if options.threads < 0:
        raise UsageError(f"--threads {options.threads}: expected 0 (all CPUs) or more")
    if not output.parent.is_dir():
        raise UsageError(f"{output}: the folder {output.parent} does not exist; create it first")
    if output.is_dir():
        raise UsageError(f"{output}: is a folder; name a file")
    if not os.access(output.parent, os.W_OK):
        raise UsageError(f"{output}: the folder {output.parent.resolve()} is not writable")


def _check_names(adapters: Sequence[Adapter]) -> None:
    names = Counter(adapter.name for adapter in adapters if adapter.is_live)
    for name, count in names.items():
        if count > 1:
            raise UsageError(f"--live: {count} files are called {name!r}; rename one, runs tell them by name")


def _manifest(
    checkpoint: Checkpoint,
    config: ModelConfig,
    adapters: Sequence[Adapter],
    plan: AdapterPlan,
    options: BuildOptions,
) -> dict[str, Any]:
    """What the artifact says of itself; `write_artifact` adds programs and sizes of what it wrote."""
    return {
        "sdcomp": __version__,
        "checkpoint": {"file": checkpoint.path.name, **describe(checkpoint, config)},
        "adapters": [
            {
                "file": adapter.file.path.name,
                "name": adapter.name,
                "live": adapter.is_live,
                "strength": adapter.strength,
                "te_strength": adapter.text_strength,
                "modules": len({group.module for group in adapter.groups}),
                "algorithms": dict(Counter(group.algorithm for group in adapter.groups)),
            }
            for adapter in adapters
        ],
        "adapted_weights": len(plan.updates),
        "unmatched_modules": list(plan.unmatched),
        "notes": list(plan.warnings),
        "target": resolve(options.target).name,
        "weights": options.weights,
        "threads": options.threads,
        "sizes": [list(size) for size in dict.fromkeys(options.sizes)],
        "family": config.family,
        "prediction": config.prediction,
        "latent_channels": config.vae.latent_channels,
        "downscale": config.vae.downscale,
        "scaling_factor": config.vae.scaling_factor,
        "has_encoder": config.vae.has_encoder,
        "positions": config.text.positions,
        "vocabulary": config.text.vocabulary,
    }


def _silent(stage: str, done: int, total: int) -> None:
    del stage, done, total
