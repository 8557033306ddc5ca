"""What the networks of a model share: a checkpoint for the peers, an artifact for us."""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from benchmarks.cases import Array, Case, Program
from benchmarks.workers import call_in_child
from sdcomp.errors import ExecutionError
from sdcomp.frontend.checkpoint import Checkpoint
from sdcomp.frontend.config import ModelConfig
from sdcomp.frontend.family import detect
from sdcomp.runtime.context import aligned
from sdcomp.runtime.library import Library
from sdcomp.runtime.programs import ProgramInfo
from sdcomp.runtime.strengths import STRENGTHS

Result = TypeVar("Result")
Adapters = tuple[tuple[Path, float], ...]
"""Files and strengths."""


@dataclass(frozen=True)
class NetworkCase(Case):
    """A network of `checkpoint` at one image size (width, height); `artifact` holds its programs."""

    checkpoint: Path
    artifact: Path
    size: tuple[int, int]

    @property
    def pixels(self) -> str:
        return f"{self.size[0]}x{self.size[1]}"

    @abstractmethod
    def programs(self) -> list[str]:
        """The programs of one evaluation, in order; those that the artifact does not need may be missing."""

    @abstractmethod
    def inputs(self) -> dict[str, Array]:
        """Every input of every program by name."""

    def before(self) -> list[str]:
        """Programs that run once, before the evaluations."""
        return []

    def calls(self) -> list[tuple[Array, ...]]:
        return [tuple(self.inputs().values())]

    def prepare_ours(self, folder: Path) -> None:
        """Nothing: the artifact holds all networks, so it is made once, by `build_artifact`."""

    def load_ours(self, folder: Path, threads: int) -> Program:
        return load_artifact(self.artifact, threads, self.before(), self.programs(), self.inputs())

    def with_model(self, function: Callable[[ModelConfig, Callable[[str], Array]], Result]) -> Result:
        """The result of `function(configuration, read)` over the open checkpoint."""
        with Checkpoint.open(self.checkpoint) as checkpoint:
            return function(detect(checkpoint), checkpoint.read)

    def config(self) -> ModelConfig:
        """The checkpoint's configuration."""
        return self.with_model(lambda config, read: config)


def load_artifact(
    artifact: Path, threads: int, before: list[str], programs: list[str], inputs: dict[str, Array]
) -> Program:
    """The programs of one evaluation; the last one's outputs are the evaluation's.

    Raises ExecutionError where the artifact lacks the last program.
    """
    library = Library.open(artifact, threads)
    if programs[-1] not in library.programs:
        known = ", ".join(library.programs)
        raise ExecutionError(f"{artifact}: no program {programs[-1]}; it has {known}; build it for this size")
    context = library.context()
    multiplies = {entry["name"]: int(entry["multiplies"]) for entry in library.manifest["programs"]}
    present = [name for name in programs if name in library.programs]
    given = {
        name: _given(info, inputs) for name, info in library.programs.items() if name in (*before, *programs)
    }
    for name in before:
        context.run(name, given[name])

    def evaluate() -> list[Array]:
        outputs = [context.run(name, given[name]) for name in present]
        return list(outputs[-1].values())

    return Program(evaluate, sum(multiplies[name] for name in present), list)


def _given(info: ProgramInfo, inputs: dict[str, Array]) -> dict[str, Array]:
    """The inputs that a program takes, as a run takes them without a copy; strengths have defaults."""
    return {tensor.name: aligned(inputs[tensor.name]) for tensor in info.inputs if tensor.name != STRENGTHS}


def build_artifact(
    checkpoint: Path,
    artifact: Path,
    size: tuple[int, int],
    threads: int,
    adapters: Adapters = (),
    live: bool = False,
) -> None:
    """Compiles a checkpoint with its adapters, folded in or live, in a process of its own.

    Raises ExecutionError with the compiler's words.
    """
    call_in_child("sdcomp build", threads, partial(_build, checkpoint, artifact, size, adapters, live))


def _build(checkpoint: Path, artifact: Path, size: tuple[int, int], adapters: Adapters, live: bool) -> None:
    """The compiler is imported here: no program that is measured needs it."""
    from sdcomp.compiler import AdapterFile, BuildOptions, build

    files = [AdapterFile(path, strength, live=live) for path, strength in adapters]
    build(checkpoint, artifact, BuildOptions(adapters=files, sizes=[size]))
