"""Time and peak resident memory of whole commands: `sdcomp build` and `sdcomp run`."""

from dataclasses import dataclass
from pathlib import Path

from benchmarks.memory_usage import SDCOMP, timed
from benchmarks.records import Record

_PROMPT = "a photograph of a lighthouse"


@dataclass(frozen=True)
class Picture:
    """A picture to make, and with how many threads."""

    size: tuple[int, int]
    steps: int
    threads: int

    @property
    def pixels(self) -> str:
        return f"{self.size[0]}x{self.size[1]}"


def measure_build(checkpoint: Path, adapters: list[str], artifact: Path, picture: Picture) -> Record:
    """Builds an artifact with the command line; adapters are `FILE[:STRENGTH]`.

    Raises ExecutionError if the command fails.
    """
    options = [option for adapter in adapters for option in ("--lokr", adapter)]
    case = f"build {picture.pixels}, {len(adapters)} adapter{'s' * (len(adapters) != 1)}"
    arguments = ["build", str(checkpoint), *options, "-o", str(artifact), "--size", picture.pixels]
    return _measured(case, arguments, picture.threads)


def measure_run(artifact: Path, picture: Picture, folder: Path) -> Record:
    """Makes a picture with the command line. Raises ExecutionError if the command fails."""
    arguments = ["run", str(artifact), "-p", _PROMPT, "-o", str(folder / "picture.png")]
    arguments += ["--size", picture.pixels, "--steps", str(picture.steps), "--threads", str(picture.threads)]
    return _measured(f"run {picture.pixels}, {picture.steps} steps", arguments, picture.threads)


def _measured(case: str, arguments: list[str], threads: int) -> Record:
    seconds, peak = timed(f"sdcomp {' '.join(arguments)}", [*SDCOMP, *arguments])
    return Record("memory", case, threads, 1e3 * seconds, peak)
