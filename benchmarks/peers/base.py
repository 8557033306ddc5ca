"""What a peer is: something that evaluates single networks, or something that makes whole pictures."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, TypeAlias

from benchmarks.cases import Array, Case, Program, joined

if TYPE_CHECKING:
    from benchmarks.subjects.image import Picture

Function: TypeAlias = Callable[[tuple[Array, ...]], list[Array]]
"""From the inputs of one call of a case's module to its outputs, as row-major arrays."""

Report: TypeAlias = Callable[[str], None]
"""Takes a line for the user."""


class Runtime(ABC):
    """Something to compare with. Has no state, so that it travels to children."""

    name: ClassVar[str]
    packages: ClassVar[tuple[str, ...]]
    """What it needs, as pip names it."""

    def missing(self) -> list[str]:
        """The packages that it needs and that are not installed."""
        return [package for package in self.packages if not _is_installed(package)]

    def is_installed(self, report: Report) -> bool:
        """False, and reported, where packages are missing."""
        missing = self.missing()
        if missing:
            report(f"{self.name}: left out: pip install {' '.join(missing)}")
        return not missing


def _is_installed(package: str) -> bool:
    try:
        distribution(package)
    except PackageNotFoundError:
        return False
    return True


class Peer(Runtime):
    """A runtime that evaluates the torch module of a case."""

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

    def form_name(self, label: str) -> str:
        """The name of one of its forms in a record; the label of the plain one is empty."""
        return f"{self.name} ({label})" if label else self.name


class PicturePeer(Runtime):
    """A runtime that reads a checkpoint itself and makes a whole picture: nothing else of it is measured."""

    @abstractmethod
    def command(self, picture: "Picture") -> Sequence[str]:
        """What makes the picture, but for the name of a PNG file, its last argument."""
