"""What is compared, on which inputs: the networks of an artifact, and arrays that are given or drawn."""

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from sdcomp.codegen.onnx.networks import NETWORKS, Network
from sdcomp.errors import UsageError
from sdcomp.ir.types import Array, DType
from sdcomp.passes.split_rates import network_name
from sdcomp.runtime.library import Library
from sdcomp.runtime.programs import ProgramInfo, TensorInfo
from sdcomp.runtime.strengths import STRENGTHS

TOLERANCE = 2e-3
"""Relative error up to which weights rounded to f16 explain a difference."""

Progress = Callable[[str, int, int], None]
"""What is being compared, steps done, steps in all."""

Arrays = dict[str, Array]


@dataclass(frozen=True)
class CompareOptions:
    """`inputs` are arrays by `network/input` or `program/input`, such as `unet/latents` or
    `unet@512x512x2/context`; all others are drawn from `seed`. After a first run, each side is timed
    `repeats` times. A picture of `prompt` is made in `steps` steps, none if that is 0. `threads` are those of
    each side, by default the artifact's.
    """

    inputs: Mapping[str, Array] = field(default_factory=dict)
    tolerance: float = TOLERANCE
    repeats: int = 3
    prompt: str = "a lovely cat"
    steps: int = 4
    threads: int | None = None
    seed: int = 0


@dataclass(frozen=True)
class Case:
    """One network at one size and batch: the artifact's programs, and a value for each of their inputs."""

    name: str
    programs: Sequence[ProgramInfo]
    inputs: Arrays

    @property
    def network(self) -> Network:
        return NETWORKS[self.name.partition("@")[0]]

    def own_inputs(self, program: ProgramInfo) -> Arrays:
        """The inputs of one of its programs."""
        return {tensor.name: self.inputs[tensor.name] for tensor in _tensors([program])}


def open_cases(library: Library, options: CompareOptions) -> list[Case]:
    """Every network of an artifact. Raises UsageError where onnxruntime is not installed, and for inputs that
    do not fit.
    """
    if find_spec("onnxruntime") is None:
        raise UsageError("compare: needs the package onnxruntime; install it with pip install onnxruntime")
    groups: dict[str, list[ProgramInfo]] = {}
    for program in library.programs.values():
        groups.setdefault(network_name(program.name), []).append(program)
    _refuse_unused(options.inputs, groups)
    source = _Source(
        options, 1 / float(library.manifest["scaling_factor"]), int(library.manifest["vocabulary"])
    )
    return [
        Case(name, programs, {tensor.name: source.value(name, tensor) for tensor in _tensors(programs)})
        for name, programs in groups.items()
    ]


def _tensors(programs: Sequence[ProgramInfo]) -> Iterator[TensorInfo]:
    """Their inputs but for strengths of live adapters, which stay as they were built."""
    return (tensor for program in programs for tensor in program.inputs if tensor.name != STRENGTHS)


def _keys(name: str, tensor: TensorInfo) -> tuple[str, str]:
    """What an input may be called in a file, the more special first."""
    return f"{name}/{tensor.name}", f"{name.partition('@')[0]}/{tensor.name}"


def _refuse_unused(inputs: Mapping[str, Array], groups: Mapping[str, Sequence[ProgramInfo]]) -> None:
    known = {
        key
        for name, programs in groups.items()
        for tensor in _tensors(programs)
        for key in _keys(name, tensor)
    }
    for name in inputs:
        if name not in known:
            raise UsageError(f"inputs: {name!r} is no input; known are {', '.join(sorted(known))}")


@dataclass(frozen=True)
class _Source:
    """Where inputs come from. Latents of the decoder are `latent_scale` times as large as a sampler's."""

    options: CompareOptions
    latent_scale: float
    tokens: int

    def value(self, network: str, tensor: TensorInfo) -> Array:
        given = [self.options.inputs[key] for key in _keys(network, tensor) if key in self.options.inputs]
        return _checked(network, tensor, given[0]) if given else self._drawn(network, tensor)

    def _drawn(self, network: str, tensor: TensorInfo) -> Array:
        """Values as a generation has them: token ids, noise, latents as the decoder gets them, pixels."""
        key = zlib.crc32(f"{network}/{tensor.name}".encode())
        generator = np.random.default_rng([self.options.seed, key])
        if tensor.dtype is DType.I32:
            return generator.integers(0, self.tokens, tensor.shape).astype(np.int32)
        if tensor.name == "timestep":
            return generator.uniform(0, 999, tensor.shape).astype(np.float32)
        if tensor.name == "image":
            return generator.uniform(-1, 1, tensor.shape).astype(np.float32)
        scale = self.latent_scale if network.startswith("vae_decoder") else 1.0
        return (scale * generator.standard_normal(tensor.shape)).astype(np.float32)


def _checked(network: str, tensor: TensorInfo, given: Array) -> Array:
    if given.shape != tensor.shape or given.dtype.kind not in "fiu":
        found = f"{given.dtype}{list(given.shape)}"
        expected = f"{tensor.dtype.value}{list(tensor.shape)}"
        raise UsageError(f"inputs: {network}/{tensor.name} must be {expected}, found {found}")
    return given.astype(tensor.dtype.numpy)


def model_path(network: Network, folder: Path) -> Path:
    """Raises UsageError where the folder has no such model."""
    model = folder / network.folder / "model.onnx"
    if not model.is_file():
        raise UsageError(f"{model}: no such file; make it with sdcomp export, from the same checkpoint")
    return model


def silent(name: str, done: int, total: int) -> None:
    """Progress that nobody watches."""
    del name, done, total
