"""compare(): an artifact beside onnxruntime, network by network, on the same inputs, and as a whole picture.

Each side runs in a process of its own, made anew for every network: its peak memory is that of this network
alone, and neither side's threads or caches of weights serve the other. Both get the same number of threads,
and take turns, so that a busy machine slows both.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from sdcomp.codegen.onnx.networks import Network
from sdcomp.compare.cases import Arrays, Case, CompareOptions, Progress, model_path, open_cases, silent
from sdcomp.compare.difference import Difference, difference
from sdcomp.compare.picture import Picture, compare_picture
from sdcomp.compare.sessions import OnnxModel
from sdcomp.errors import ExecutionError, UsageError
from sdcomp.runtime.library import Library
from sdcomp.workers import Worker, peak_bytes


@dataclass(frozen=True)
class Comparison:
    """One network at one size and batch.

    `error` is norm(artifact - onnx) / norm(onnx) over all outputs, `largest` the largest difference of two
    elements. Times are medians in seconds: `seconds` of what the artifact runs at every evaluation,
    `once_seconds` of what it runs once per prompt or step, which is part of every evaluation in ONNX. Peaks
    are resident bytes of the whole process.
    """

    program: str
    error: float
    largest: float
    seconds: float
    once_seconds: float
    onnx_seconds: float
    peak_bytes: int
    onnx_peak_bytes: int


@dataclass(frozen=True)
class Report:
    """`skipped` are programs that the folder's models, made for another size, cannot run. `picture` is None
    where no step was asked for, or no size has all networks.
    """

    comparisons: tuple[Comparison, ...]
    picture: Picture | None
    skipped: tuple[str, ...]
    threads: int
    tolerance: float

    @property
    def passed(self) -> bool:
        return all(found.error <= self.tolerance for found in self.comparisons)


def compare(
    artifact: Path | str,
    folder: Path | str,
    options: CompareOptions | None = None,
    progress: Progress | None = None,
) -> Report:
    """Runs every network of an artifact and its ONNX model of a folder that `export_onnx` (or any exporter in
    the layout of Hugging Face's pipelines) wrote.

    Raises UsageError for a missing package, model or size and for inputs that do not fit, ArtifactError for a
    file that is no artifact.
    """
    options, progress, folder = options or CompareOptions(), progress or silent, Path(folder)
    with Library.open(artifact, options.threads) as library:
        cases = open_cases(library, options)
        threads, sizes = int(library.threads), library.manifest["sizes"]
    models = [model_path(case.network, folder) for case in cases]
    found: list[Comparison] = []
    skipped: list[str] = []
    for case, model in zip(cases, models, strict=True):
        result = _compare(case, model, Path(artifact), threads, options.repeats, progress)
        if result is None:
            skipped.append(case.name)
        else:
            found.append(result)
    if not found:
        raise UsageError(f"{folder}: its models have other sizes than {artifact}; export one of its sizes")
    size = _size({row.program for row in found}, sizes)
    picture = None
    if options.steps and size is not None:
        picture = compare_picture(Path(artifact), folder, size, options, threads, progress)
    return Report(tuple(found), picture, tuple(skipped), threads, options.tolerance)


def _size(compared: set[str], sizes: Sequence[Sequence[int]]) -> tuple[int, int] | None:
    """The first size whose networks both sides have."""
    for width, height in sizes:
        if {"text", f"unet@{width}x{height}x2", f"vae_decoder@{width}x{height}"} <= compared:
            return width, height
    return None


def _compare(
    case: Case, model: Path, artifact: Path, threads: int, repeats: int, progress: Progress
) -> Comparison | None:
    """None where the model cannot take inputs of this size."""
    total = 2 * (repeats + 1)
    request = _feeds(case), tuple(case.network.outputs)
    with ExitStack() as stack:
        progress(case.name, 0, total)
        onnx = stack.enter_context(Worker("onnxruntime", _serve_onnx, model, threads))
        ours = stack.enter_context(Worker("the artifact", _serve_artifact, artifact, threads, case))
        reference = onnx.ask(request)
        if reference is None:
            return None
        progress(case.name, 1, total)
        outputs = ours.ask("run")
        progress(case.name, 2, total)
        times: list[Sequence[float]] = []
        onnx_times: list[float] = []
        for done in range(4, total + 1, 2):
            times.append(ours.ask("run")[1])
            onnx_times.append(onnx.ask(request)[1])
            progress(case.name, done, total)
        peaks = ours.ask(None), onnx.ask(None)
    apart = _difference(case.network, outputs[0], reference[0])
    *once, evaluation = (median(column) for column in zip(*times, strict=True))
    seconds = evaluation, sum(once), median(onnx_times)
    return Comparison(case.name, apart.error, apart.largest, *seconds, *peaks)


def _feeds(case: Case) -> Arrays:
    """The inputs of the model: one latent becomes as many as there are contexts."""
    given = dict(case.inputs)
    if "context" in given:
        given["latents"] = np.repeat(given["latents"], len(given["context"]), axis=0)
    return {case.network.inputs[name]: value for name, value in given.items()}


def _difference(network: Network, found: Arrays, expected: Arrays) -> Difference:
    """Over all outputs."""
    total = Difference()
    for name, parts in network.outputs.items():
        joined = np.concatenate([found[part] for part in parts], 1)
        if joined.shape != expected[name].shape:
            shapes = f"{list(joined.shape)} and {list(expected[name].shape)}"
            raise ExecutionError(f"{network.folder}: output {name} has the shapes {shapes}")
        total += difference(joined, expected[name])
    return total


def _serve_artifact(artifact: Path, threads: int, case: Case) -> Callable[[Any], Any]:
    """Any question but None to outputs and the seconds of each program; None to the peak so far."""
    library = Library.open(artifact, threads, verify=False)
    context = library.context()

    def answer(question: Any) -> Any:
        if question is None:
            return peak_bytes()
        outputs: Arrays = {}
        seconds = []
        for program in case.programs:
            begin = time.perf_counter()
            outputs |= context.run(program.name, case.own_inputs(program))
            seconds.append(time.perf_counter() - begin)
        return outputs, seconds

    return answer


def _serve_onnx(path: Path, threads: int) -> Callable[[Any], Any]:
    """Feeds and names of outputs to outputs and seconds, or to None where shapes do not fit; None to the
    peak so far.
    """
    model = OnnxModel(path, threads)

    def answer(request: tuple[Arrays, tuple[str, ...]] | None) -> Any:
        if request is None:
            return peak_bytes()
        feeds, names = request
        if not model.accepts(feeds):
            return None
        ready = model.prepared(feeds)
        begin = time.perf_counter()
        outputs = model.run(ready, names)
        return outputs, time.perf_counter() - begin

    return answer
