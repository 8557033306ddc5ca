"""compare(): an artifact beside onnxruntime, network by network, on the same inputs.

Each side runs in a process of its own, made anew for every program: its peak memory is that of this program
alone, and neither side's threads or caches of weights serve the other. Both get the same number of threads,
and take turns, so that a busy machine slows both.
"""

import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.util import find_spec
from math import isfinite
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from sdcomp.codegen.onnx.networks import NETWORKS, Network
from sdcomp.errors import ExecutionError, UsageError
from sdcomp.ir.types import Array, DType
from sdcomp.passes.split_rates import network_name
from sdcomp.runtime.library import Library
from sdcomp.runtime.programs import ProgramInfo, TensorInfo
from sdcomp.workers import Worker, peak_bytes

TOLERANCE = 2e-3
"""Relative error up to which weights rounded to f16 explain a difference."""

Progress = Callable[[str, int, int], None]
"""Program, runs done, runs in all."""

Arrays = dict[str, Array]


@dataclass(frozen=True)
class CompareOptions:
    """`inputs` are arrays by `network/input` or `program/input`, such as `unet/latents` or
    `unet@512x512x2/context`; all others are drawn from `seed`. After a first run, each side is timed
    `repeats` times. `threads` are those of each side, by default the artifact's.
    """

    inputs: Mapping[str, Array] = field(default_factory=dict)
    tolerance: float = TOLERANCE
    repeats: int = 3
    threads: int | None = None
    seed: int = 0


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
    """`skipped` are programs that the folder's models, made for another size, cannot run."""

    comparisons: tuple[Comparison, ...]
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
    options, progress = options or CompareOptions(), progress or _silent
    if find_spec("onnxruntime") is None:
        raise UsageError("compare: needs the package onnxruntime; install it with pip install onnxruntime")
    with Library.open(artifact, options.threads) as library:
        groups = _groups(library.programs.values())
        scale = float(library.manifest["scaling_factor"])
        tokens = int(library.manifest["vocabulary"])
        threads = int(library.threads)
    cases = [_Case.of(name, programs, Path(folder)) for name, programs in groups.items()]
    inputs = [case.inputs(options, 1 / scale, tokens) for case in cases]
    _refuse_unused(options.inputs, cases)
    found: list[Comparison] = []
    skipped: list[str] = []
    for case, given in zip(cases, inputs, strict=True):
        result = _compare(case, given, Path(artifact), threads, options.repeats, progress)
        if result is None:
            skipped.append(case.name)
        else:
            found.append(result)
    if not found:
        raise UsageError(f"{folder}: its models have other sizes than {artifact}; export one of its sizes")
    return Report(tuple(found), tuple(skipped), threads, options.tolerance)


def _groups(programs: Any) -> dict[str, list[ProgramInfo]]:
    """The programs of each network, in the order in which they run."""
    groups: dict[str, list[ProgramInfo]] = {}
    for program in programs:
        groups.setdefault(network_name(program.name), []).append(program)
    return groups


@dataclass(frozen=True)
class _Case:
    """One network at one size: the artifact's programs, and the model that computes the same."""

    name: str
    programs: Sequence[ProgramInfo]
    network: Network
    model: Path

    @classmethod
    def of(cls, name: str, programs: Sequence[ProgramInfo], folder: Path) -> "_Case":
        network = NETWORKS[name.partition("@")[0]]
        model = folder / network.folder / "model.onnx"
        if not model.is_file():
            raise UsageError(f"{model}: no such file; make it with sdcomp export, from the same checkpoint")
        return cls(name, programs, network, model)

    @property
    def tensors(self) -> Iterator[TensorInfo]:
        return (tensor for program in self.programs for tensor in program.inputs)

    def keys(self, name: str) -> tuple[str, str]:
        """What an input may be called in a file, the more special first."""
        return f"{self.name}/{name}", f"{self.name.partition('@')[0]}/{name}"

    def inputs(self, options: CompareOptions, latent_scale: float, tokens: int) -> Arrays:
        """Every input of every program, as given or drawn."""
        arrays: Arrays = {}
        for tensor in self.tensors:
            given = [options.inputs[key] for key in self.keys(tensor.name) if key in options.inputs]
            arrays[tensor.name] = (
                self._checked(tensor, given[0])
                if given
                else self._drawn(tensor, options.seed, latent_scale, tokens)
            )
        return arrays

    def _checked(self, tensor: TensorInfo, given: Array) -> Array:
        if given.shape != tensor.shape or given.dtype.kind not in "fiu":
            found = f"{given.dtype}{list(given.shape)}"
            expected = f"{tensor.dtype.value}{list(tensor.shape)}"
            raise UsageError(f"inputs: {self.name}/{tensor.name} must be {expected}, found {found}")
        return given.astype(tensor.dtype.numpy)

    def _drawn(self, tensor: TensorInfo, seed: int, latent_scale: float, tokens: int) -> Array:
        """Values as a generation has them: token ids, noise, latents as the decoder gets them, pixels."""
        generator = np.random.default_rng([seed, zlib.crc32(f"{self.name}/{tensor.name}".encode())])
        if tensor.dtype is DType.I32:
            return generator.integers(0, tokens, tensor.shape).astype(np.int32)
        if tensor.name == "timestep":
            return generator.uniform(0, 999, tensor.shape).astype(np.float32)
        if tensor.name == "image":
            return generator.uniform(-1, 1, tensor.shape).astype(np.float32)
        scale = latent_scale if self.name.startswith("vae_decoder") else 1.0
        return (scale * generator.standard_normal(tensor.shape)).astype(np.float32)

    def feeds(self, inputs: Arrays) -> Arrays:
        """The inputs of the model: one latent becomes as many as there are contexts."""
        given = dict(inputs)
        if "context" in given:
            given["latents"] = np.repeat(given["latents"], len(given["context"]), axis=0)
        return {self.network.inputs[name]: value for name, value in given.items()}


def _refuse_unused(inputs: Mapping[str, Array], cases: Sequence[_Case]) -> None:
    known = {key for case in cases for tensor in case.tensors for key in case.keys(tensor.name)}
    for name in inputs:
        if name not in known:
            raise UsageError(f"inputs: {name!r} is no input; known are {', '.join(sorted(known))}")


def _compare(
    case: _Case, inputs: Arrays, artifact: Path, threads: int, repeats: int, progress: Progress
) -> Comparison | None:
    """None where the model cannot take inputs of this size."""
    total = 2 * (repeats + 1)
    with ExitStack() as stack:
        progress(case.name, 0, total)
        onnx = stack.enter_context(Worker("onnxruntime", _serve_onnx, case.model, threads))
        names = [program.name for program in case.programs]
        ours = stack.enter_context(Worker("the artifact", _serve_artifact, artifact, threads, names))
        reference = onnx.ask((case.feeds(inputs), tuple(case.network.outputs)))
        if reference is None:
            return None
        progress(case.name, 1, total)
        outputs = ours.ask(inputs)
        progress(case.name, 2, total)
        times: list[Sequence[float]] = []
        onnx_times: list[float] = []
        for done in range(4, total + 1, 2):
            times.append(ours.ask(inputs)[1])
            onnx_times.append(onnx.ask((case.feeds(inputs), tuple(case.network.outputs)))[1])
            progress(case.name, done, total)
        peaks = ours.ask(None), onnx.ask(None)
    difference = _difference(case.network, outputs[0], reference[0])
    *once, evaluation = (median(column) for column in zip(*times, strict=True))
    return Comparison(case.name, *difference, evaluation, sum(once), median(onnx_times), *peaks)


def _difference(network: Network, found: Arrays, expected: Arrays) -> tuple[float, float]:
    """Relative error and largest difference; infinite where anything is not a number."""
    errors = norms = largest = 0.0
    for name, parts in network.outputs.items():
        joined = np.concatenate([found[part] for part in parts], 1).astype(np.float64)
        reference = expected[name].astype(np.float64)
        if joined.shape != reference.shape:
            shapes = f"{list(joined.shape)} and {list(reference.shape)}"
            raise ExecutionError(f"{network.folder}: output {name} has the shapes {shapes}")
        errors += float(((joined - reference) ** 2).sum())
        norms += float((reference**2).sum())
        largest = max(largest, float(np.abs(joined - reference).max()))
    if not isfinite(errors) or not isfinite(norms):
        return float("inf"), float("inf")
    return (errors / norms) ** 0.5 if norms else float(errors > 0), largest


def _serve_artifact(artifact: Path, threads: int, programs: Sequence[str]) -> Callable[[Any], Any]:
    """Inputs to outputs and the seconds of each program; None to the peak so far."""
    library = Library.open(artifact, threads, verify=False)
    context = library.context()

    def answer(inputs: Arrays | None) -> Any:
        if inputs is None:
            return peak_bytes()
        outputs: Arrays = {}
        seconds = []
        for name in programs:
            own = {tensor.name: inputs[tensor.name] for tensor in library.programs[name].inputs}
            begin = time.perf_counter()
            outputs |= context.run(name, own)
            seconds.append(time.perf_counter() - begin)
        return outputs, seconds

    return answer


def _serve_onnx(model: Path, threads: int) -> Callable[[Any], Any]:
    """Feeds and names of outputs to outputs and seconds, or to None where shapes do not fit; None to the
    peak so far.
    """
    import onnxruntime  # type: ignore[import-untyped]

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # Its threads would go on spinning into the turn of the artifact.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    try:
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own classes, all derived from Exception
        raise ExecutionError(f"{model}: onnxruntime cannot load it: {error}") from None
    declared = {value.name: value for value in session.get_inputs()}
    kinds = {"tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(float16)": np.float16}

    def answer(request: tuple[Arrays, tuple[str, ...]] | None) -> Any:
        if request is None:
            return peak_bytes()
        feeds, names = request
        if set(declared) != set(feeds):
            raise ExecutionError(
                f"{model}: its inputs are {sorted(declared)}, but those of a pipeline are {sorted(feeds)}"
            )
        if not all(_accepts(value.shape, feeds[name]) for name, value in declared.items()):
            return None
        ready = {
            name: feeds[name].reshape(() if not value.shape else feeds[name].shape)
            .astype(kinds.get(value.type, np.float32))
            for name, value in declared.items()
        }  # fmt: skip
        begin = time.perf_counter()
        outputs = session.run(names, ready)
        return dict(zip(names, outputs, strict=True)), time.perf_counter() - begin

    return answer


def _accepts(shape: Sequence[int | str | None], value: Array) -> bool:
    """Whether a declared shape, with names for free extents, takes an array; a scalar may come as [1]."""
    if len(shape) != value.ndim:
        return not shape and value.size == 1
    extents = zip(shape, value.shape, strict=True)
    return all(not isinstance(wanted, int) or wanted == extent for wanted, extent in extents)


def _silent(program: str, done: int, total: int) -> None:
    del program, done, total
