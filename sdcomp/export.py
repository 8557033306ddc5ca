"""export_onnx(): from files to a folder of ONNX models."""

import os
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from sdcomp.codegen.costs import load_costs
from sdcomp.codegen.onnx.data import WeightStore
from sdcomp.codegen.onnx.extents import Extents
from sdcomp.codegen.onnx.huggingface import write_pipeline_files
from sdcomp.codegen.onnx.model import write_model
from sdcomp.codegen.onnx.networks import NETWORKS, lower_networks, probes
from sdcomp.codegen.targets import resolve
from sdcomp.compiler import DEFAULT_SIZE, AdapterFile
from sdcomp.errors import LinkError, UsageError
from sdcomp.frontend.adapters.match import match
from sdcomp.frontend.adapters.reader import open_adapter
from sdcomp.frontend.builder import Weights
from sdcomp.frontend.checkpoint import Checkpoint
from sdcomp.frontend.config import ModelConfig
from sdcomp.frontend.family import detect
from sdcomp.frontend.lower import checkpoint_weights, lower_model
from sdcomp.frontend.tokenizer import Tokenizer
from sdcomp.frontend.weights import WeightSource
from sdcomp.ir.graph import Graph, Module
from sdcomp.ir.interpret import WeightReader
from sdcomp.ir.types import TensorType
from sdcomp.passes.apply_adapters import AdapterPlan, ApplyAdapters
from sdcomp.passes.fold_kronecker import FoldKronecker
from sdcomp.passes.pipeline import PipelineOptions, pipeline, run_pipeline

STORED = ("f32", "f16")

DATA = "model.onnx_data"
"""The weights beside a `model.onnx`."""

PLAN = "plan"
"""The folder of the programs after all passes."""

Progress = Callable[[str, int, int], None]
"""Stage, steps done, steps in all."""


@dataclass(frozen=True)
class ExportOptions:
    """What an export may choose; the command line's options have the same names.

    `size` is (width, height) in pixels, None to leave both free; the batch is always free. `weights` is how
    matrices are stored, f32 or f16; arithmetic is f32. `plan` writes the programs after all passes too, as a
    build for `target` has them.
    """

    adapters: Sequence[AdapterFile] = ()
    size: tuple[int, int] | None = DEFAULT_SIZE
    weights: str = "f32"
    plan: bool = False
    target: str = "native"
    allow_unmatched: bool = False
    prediction: str | None = None
    heads: int | None = None


@dataclass(frozen=True)
class Exported:
    """What was written: folders of models, bytes in all, modules of adapters that the model does not have."""

    models: tuple[str, ...]
    bytes: int
    unmatched: tuple[str, ...]
    notes: tuple[str, ...]


def export_onnx(
    model: Path | str,
    folder: Path | str,
    options: ExportOptions | None = None,
    progress: Progress | None = None,
) -> Exported:
    """Writes a checkpoint with its adapters folded in as ONNX models, in the layout of Hugging Face's
    pipelines.

    `folder` must not exist, or be empty. Weights are evaluated and written one by one. Raises an SdcompError
    of the phase that failed; nothing is left behind then.
    """
    options, folder = options or ExportOptions(), Path(folder)
    _check(folder, options)
    try:
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.absolute().parent) as room:
            written = Path(room) / folder.name
            written.mkdir()
            exported = _export(Path(model), written, options, progress or _silent)
            if folder.is_dir():
                folder.rmdir()
            os.replace(written, folder)
            return exported
    except OSError as error:
        reason = error.strerror or error
        raise LinkError(f"{error.filename or folder}: cannot write the models: {reason}") from None


def _check(folder: Path, options: ExportOptions) -> None:
    """What can be refused before any work."""
    if options.weights not in STORED:
        raise UsageError(f"--weights {options.weights}: expected one of {', '.join(STORED)}")
    if options.plan and options.size is None:
        raise UsageError("--plan: programs are made for one size; give --size instead of --dynamic")
    resolve(options.target)
    parent = folder.absolute().parent
    if not parent.is_dir():
        raise UsageError(f"{folder}: the folder {parent} does not exist; create it first")
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder}: is a file; name a folder")
    if folder.is_dir() and any(folder.iterdir()):
        raise UsageError(f"{folder}: is not empty; delete it, or name another folder")
    if not os.access(parent, os.W_OK):
        raise UsageError(f"{folder}: the folder {parent} is not writable")


def _export(model: Path, folder: Path, options: ExportOptions, progress: Progress) -> Exported:
    with ExitStack() as stack:
        checkpoint = stack.enter_context(Checkpoint.open(model))
        config = detect(checkpoint, options.prediction, options.heads)
        adapters = [
            stack.enter_context(open_adapter(a.path, a.strength, a.te_strength)) for a in options.adapters
        ]
        updates = match(adapters, config, options.allow_unmatched)
        types = {name: TensorType(info.shape, info.dtype) for name, info in checkpoint.tensors.items()}
        job = _Job(folder, config, updates, WeightSource(checkpoint, adapters).read_weight, options, progress)
        models = job.write_networks(types)
        if options.plan:
            models += job.write_plan(types)
    base, _ = probes(config, options.size)
    write_pipeline_files(folder, config, Tokenizer.default(), base.height)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return Exported(tuple(models), size, updates.unmatched, config.notes)


@dataclass(frozen=True)
class _Job:
    """What the models of one export share."""

    folder: Path
    config: ModelConfig
    updates: AdapterPlan
    read_weight: WeightReader
    options: ExportOptions
    progress: Progress

    def write_networks(self, types: dict[str, TensorType]) -> list[str]:
        """One model per network; returns their folders."""
        weights = Weights(checkpoint_weights(types))
        sizes = probes(self.config, self.options.size)
        parts = [lower_networks(self.config, weights, size) for size in sizes]
        count = len(parts[0])
        passes = (ApplyAdapters(self.updates), FoldKronecker())
        # Graphs of one module have names of their own; a number tells the two probes apart.
        numbered = [Graph(f"{g.name}@{at}", g.outputs) for at, part in enumerate(parts) for g in part]
        module = run_pipeline(passes, Module(tuple(numbered)))
        graphs = [Graph(g.name.partition("@")[0], g.outputs) for g in module]
        return [
            self._write_network(graph, probe)
            for graph, probe in zip(graphs[:count], graphs[count:], strict=True)
        ]

    def _write_network(self, graph: Graph, probe: Graph) -> str:
        network = NETWORKS[graph.name]
        extents = Extents.compared(graph, probe, network.axes)
        folder = self.folder / network.folder
        folder.mkdir()
        with open(folder / DATA, "wb") as file:
            store = WeightStore(file, DATA, self.read_weight, self.options.weights)
            write_model(graph, folder / "model.onnx", extents, store, self._steps(network.folder))
        return network.folder

    def write_plan(self, types: dict[str, TensorType]) -> list[str]:
        """The programs after all passes, one file each, over one file of weights."""
        assert self.options.size is not None
        lowered = lower_model(self.config, types, [self.options.size])
        passes = pipeline(PipelineOptions(self.updates, load_costs(resolve(self.options.target))))
        module = run_pipeline(passes, lowered)
        folder = self.folder / PLAN
        folder.mkdir()
        with open(folder / DATA, "wb") as file:
            store = WeightStore(file, DATA, self.read_weight, self.options.weights)
            for graph in module:
                path = folder / f"{graph.name}.onnx"
                steps = self._steps(graph.name)
                write_model(graph, path, Extents.fixed(graph), store, steps, traced=True)
        return [f"{PLAN}/{graph.name}" for graph in module]

    def _steps(self, stage: str) -> Callable[[int, int], None]:
        return lambda done, total: self.progress(stage, done, total)


def _silent(stage: str, done: int, total: int) -> None:
    del stage, done, total
