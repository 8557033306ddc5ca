"""A whole picture: the time from the start of a process to its end, and its peak resident memory.

Ours is `sdcomp run`. Networks of a peer are converted beforehand; `benchmarks/picture.py` drives them. A peer
that makes whole pictures is a command too.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

from benchmarks.cases import Array
from benchmarks.memory_usage import SDCOMP, timed
from benchmarks.peers.base import Peer, PicturePeer, Report
from benchmarks.records import Record
from benchmarks.subjects.network import NetworkCase
from benchmarks.subjects.text import TextCase
from benchmarks.subjects.unet import UNetCase
from benchmarks.subjects.vae import DecodeCase
from benchmarks.workers import call_in_child
from sdcomp.errors import ExecutionError
from sdcomp.runtime.pipeline import GenerateOptions

LEAST_PSNR = 30.0
"""In dB: below, two pictures are not the same but for rounding."""

_PROMPT = "a photograph of a lighthouse"
_GUIDANCE_ROWS = 2
_PEER = (sys.executable, "-m", "benchmarks.picture")


@dataclass(frozen=True)
class Picture:
    """A picture to make; `checkpoint` is what `artifact` was built from, without adapters."""

    checkpoint: Path
    artifact: Path
    size: tuple[int, int]
    steps: int
    threads: int

    @property
    def pixels(self) -> str:
        return f"{self.size[0]}x{self.size[1]}"

    def options(self) -> GenerateOptions:
        """As `sdcomp run` has them by default: Euler a, guidance scale 7."""
        return GenerateOptions(_PROMPT, steps=self.steps, size=self.size)

    def text(self) -> str:
        """As JSON, for a command line."""
        return json.dumps(asdict(self), default=str)

    @staticmethod
    def parse(text: str) -> "Picture":
        """What `text` wrote."""
        fields = json.loads(text)
        checkpoint, artifact = (Path(fields[name]) for name in ("checkpoint", "artifact"))
        return Picture(checkpoint, artifact, tuple(fields["size"]), fields["steps"], fields["threads"])


@dataclass(frozen=True)
class _Maker:
    """A command that makes the picture, without the name of the file at its end."""

    name: str
    command: Sequence[str]
    output: Path
    seconds: list[float] = field(default_factory=list)
    peaks: list[float] = field(default_factory=list)

    def run(self) -> None:
        """Raises ExecutionError if the command fails."""
        seconds, peak = timed(f"the picture of {self.name}", [*self.command, str(self.output)])
        self.seconds.append(seconds)
        self.peaks.append(peak)

    def pixels(self) -> Array:
        with Image.open(self.output) as image:
            return np.asarray(image, np.float64)


def network_cases(picture: Picture) -> dict[str, NetworkCase]:
    """The networks of a picture with guidance, by their names in an artifact."""
    place = (picture.checkpoint, picture.artifact, picture.size)
    return {
        "text": TextCase(*place),
        "unet": UNetCase(*place, _GUIDANCE_ROWS),
        "vae_decoder": DecodeCase(*place),
    }


def measure_image(
    picture: Picture, peers: Sequence[Peer | PicturePeer], runs: int, folder: Path, report: Report
) -> Iterator[Record]:
    """One record per peer, or one of ours alone; programs take turns, `runs` each.

    A peer that is not installed is reported and left out. Raises ExecutionError if one fails, or if a peer
    makes another picture.
    """
    if not peers:
        ours = _ours(picture, folder)
        for _ in range(runs):
            ours.run()
        yield _record(picture, ours, None)
    for peer in peers:
        if not peer.is_installed(report):
            continue
        with TemporaryDirectory(dir=folder) as name:
            yield _against(picture, _maker(picture, peer, Path(name)), runs, Path(name), report)


def _maker(picture: Picture, peer: Peer | PicturePeer, folder: Path) -> _Maker:
    output = folder / "peer.png"
    if isinstance(peer, PicturePeer):
        return _Maker(peer.name, peer.command(picture), output)
    for network, case in network_cases(picture).items():
        (folder / network).mkdir()
        call_in_child(peer.name, picture.threads, partial(peer.prepare, case, folder / network))
    return _Maker(peer.name, (*_PEER, peer.name, str(folder), picture.text()), output)


def _against(picture: Picture, theirs: _Maker, runs: int, folder: Path, report: Report) -> Record:
    ours = _ours(picture, folder)
    for _ in range(runs):
        ours.run()
        theirs.run()
    _check_same(ours, theirs, report)
    return _record(picture, ours, theirs)


def _check_same(ours: _Maker, theirs: _Maker, report: Report) -> None:
    expected, found = ours.pixels(), theirs.pixels()
    if found.shape != expected.shape:
        shapes = f"expected pixels of shape {list(expected.shape)}, found {list(found.shape)}"
        raise ExecutionError(f"{theirs.name}: {shapes}")
    decibels = psnr(expected, found)
    report(f"{theirs.name}: its picture is {decibels:.1f} dB from ours")
    if decibels < LEAST_PSNR:
        raise ExecutionError(f"{theirs.name}: makes another picture, {decibels:.1f} dB from ours")


def _ours(picture: Picture, folder: Path) -> _Maker:
    options = ("-p", _PROMPT, "--size", picture.pixels, "--steps", str(picture.steps))
    command = (*SDCOMP, "run", str(picture.artifact), *options, "--threads", str(picture.threads), "-o")
    return _Maker("sdcomp", command, folder / "ours.png")


def psnr(a: Array, b: Array) -> float:
    """10 log10(255^2 / mean squared difference) of two 8-bit pictures; infinite if they are equal."""
    mean_square = float(np.mean((a - b) ** 2))
    return 10 * float(np.log10(255**2 / mean_square)) if mean_square else float("inf")


def _record(picture: Picture, ours: _Maker, theirs: _Maker | None) -> Record:
    ours_ms = 1e3 * median(ours.seconds)
    case = f"{picture.pixels}, {picture.steps} steps"
    record = Record("image", case, picture.threads, ours_ms, max(ours.peaks))
    if theirs is None:
        return record
    peer_ms = 1e3 * median(theirs.seconds)
    return replace(
        record, peer=theirs.name, peer_ms=peer_ms, peer_peak_mb=max(theirs.peaks), ratio=ours_ms / peer_ms
    )
