"""What a peer is."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar, TypeAlias

from benchmarks.cases import Array, Case, Program, joined

Function: TypeAlias = Callable[[tuple[Array, ...]], list[Array]]
"""From the inputs of one call of a case's module to its outputs, as row-major arrays."""


class Peer(ABC):
    """A runtime that evaluates the torch module of a case. Has no state, so that it travels to children."""

    name: ClassVar[str]
    packages: ClassVar[tuple[str, ...]]

    def missing(self) -> list[str]:
        """The packages that it needs and that are not installed."""
        return [package for package in self.packages if find_spec(package) is None]

    def prepare(self, case: Case, folder: Path) -> None:
        """Converts the case into `folder`, in a process of its own: neither time nor memory of it count.

        Does nothing for a runtime that needs no conversion.
        """
        del case, folder

    @abstractmethod
    def function(self, case: Case, folder: Path, threads: int) -> Function:
        """The case's module, ready to be called with this many threads."""

    def load(self, case: Case, folder: Path, threads: int) -> Program:
        """The case, bound to its inputs."""
        function, calls = self.function(case, folder, threads), case.calls()
        return Program(lambda: joined([function(call) for call in calls]), None, case.finish)
