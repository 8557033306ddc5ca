"""What a peer is."""

from abc import ABC, abstractmethod
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

from benchmarks.cases import Case, Program


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
    def load(self, case: Case, folder: Path, threads: int) -> Program:
        """The case, ready to be evaluated with this many threads."""
