"""What a benchmark measures: cases, and the programs that evaluate them."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

Array: TypeAlias = npt.NDArray[Any]
Evaluation: TypeAlias = Callable[[], list[Array]]
Finish: TypeAlias = Callable[[list[Array]], list[Array]]


@dataclass(frozen=True)
class Program:
    """A network, loaded and bound to its inputs. `evaluate` is all that is timed.

    It returns the outputs as row-major arrays that nothing overwrites. `multiplies` counts the
    multiply-accumulates of one evaluation where they are known. `finish` brings outputs into the layout in
    which programs are compared.
    """

    evaluate: Evaluation
    multiplies: int | None
    finish: Finish


@dataclass(frozen=True)
class Case(ABC):
    """One thing to measure: the same weights, the same inputs, for every program that evaluates it.

    Instances travel to the processes that compute, so they hold paths and numbers, no arrays. `torch` and the
    compiler are imported by the methods that need them: what one program loads must not count as another's.
    """

    subject: ClassVar[str]

    @property
    @abstractmethod
    def name(self) -> str:
        """The case within its subject, as reports print it."""

    @abstractmethod
    def calls(self) -> list[tuple[Array, ...]]:
        """The inputs of every call of `module` that one evaluation takes, in the order of its arguments."""

    @abstractmethod
    def module(self) -> "torch.nn.Module":
        """The case as a torch module in f32, for peers to run or to convert."""

    @abstractmethod
    def prepare_ours(self, folder: Path) -> None:
        """Compiles the case into `folder`, in a process of its own."""

    @abstractmethod
    def load_ours(self, folder: Path, threads: int) -> Program:
        """Opens what `prepare_ours` made."""

    def finish(self, outputs: list[Array]) -> list[Array]:
        """A peer's outputs in the layout in which programs are compared."""
        return outputs

    def forms(self, peer: str) -> list[tuple[str, "Case"]]:
        """Ways in which a peer may evaluate this case, each with a label, empty for the plain one."""
        del peer
        return [("", self)]


def joined(results: Sequence[list[Array]]) -> list[Array]:
    """The outputs of an evaluation from those of its calls: one after the other along the first axis."""
    if len(results) == 1:
        return results[0]
    return [np.concatenate(parts) for parts in zip(*results, strict=True)]
