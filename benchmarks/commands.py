"""What the commands of the benchmarks do."""

import argparse
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.cases import Case
from benchmarks.measure import Settings, measure
from benchmarks.records import Record, table, write_json
from benchmarks.subjects import attention, conv, matmul
from benchmarks.subjects.network import build_artifact
from benchmarks.subjects.text import TextCase
from benchmarks.subjects.unet import UNetCase
from benchmarks.subjects.vae import DecodeCase, EncodeCase
from sdcomp.cli.parsing import parse_adapter
from sdcomp.errors import UsageError

NETWORKS = ("text", "unet", "vae")

_LOKR_EFFECT = 0.2
"""Norm of a weight's change over the norm of the weight."""

LAYERS: dict[str, tuple[Case, ...]] = {
    "matmul": matmul.CASES,
    "conv": conv.CASES,
    "attention": attention.CASES,
}


def measure_subject(options: argparse.Namespace) -> int:
    """Measures the chosen cases of a network or of single layers against the chosen peers."""
    from benchmarks.peers.registry import chosen_peers

    peers = chosen_peers(options.peers)
    with _scratch_folder() as name:
        folder = Path(name)
        cases = [case for case in _cases(options, folder) if options.only in case.name]
        if not cases:
            raise UsageError(f"--only {options.only}: no case of {options.subject} has this in its name")
        settings = Settings(options.threads, options.runs, partial(print, flush=True))
        records = [record for case in cases for record in measure(case, peers, settings, folder)]
    return _report(records, options)


def measure_scaling(options: argparse.Namespace) -> int:
    """Measures a UNet evaluation on one thread, on all, and beside a process that takes half a core."""
    from benchmarks.subjects.scaling import measure_scaling

    with _scratch_folder() as name:
        artifact = options.artifact or Path(name) / "model.so"
        if options.artifact is None:
            build_artifact(options.model, artifact, options.size, options.threads)
        case = UNetCase(options.model, artifact, options.size, batch=1, hoisted=True)
        records = measure_scaling(case, options.threads, options.runs)
    return _report(records, options)


def measure_memory(options: argparse.Namespace) -> int:
    """Runs `sdcomp build`, then `sdcomp run` on what it built."""
    from benchmarks.subjects.memory import Picture, measure_build, measure_run

    picture = Picture(options.size, options.steps, options.threads)
    with _scratch_folder() as name:
        artifact = Path(name) / "model.so"
        records = [
            measure_build(options.model, options.lokr, artifact, picture),
            measure_run(artifact, picture, Path(name)),
        ]
    return _report(records, options)


def measure_image(options: argparse.Namespace) -> int:
    """Makes a whole picture with `sdcomp run` and with the chosen peers."""
    from benchmarks.peers.registry import chosen_picture_peers
    from benchmarks.subjects.image import Picture, measure_image

    peers = chosen_picture_peers(options.peers)
    with _scratch_folder() as name:
        artifact = options.artifact or Path(name) / "model.so"
        if options.artifact is None:
            build_artifact(options.model, artifact, options.size, options.threads)
        picture = Picture(options.model, artifact, options.size, options.steps, options.threads)
        report = partial(print, flush=True)
        records = list(measure_image(picture, peers, options.runs, Path(name), report))
    return _report(records, options)


def measure_adapters(options: argparse.Namespace) -> int:
    """Builds a model without adapters, with them folded in and with them live, and measures all three."""
    from benchmarks.subjects.adapters import measure_adapters

    adapters = tuple(parse_adapter(text)[:2] for text in options.lokr)
    with _scratch_folder() as name:
        settings = Settings(options.threads, options.runs, partial(print, flush=True))
        records = measure_adapters(options.model, adapters, options.size, settings, Path(name))
    return _report(records, options)


def check_accuracy(options: argparse.Namespace) -> int:
    """Prints the error of every program; exit code 1 if one is above its bound."""
    from benchmarks.accuracy import check_accuracy

    adapters = tuple(parse_adapter(text)[:2] for text in options.lokr)
    with _scratch_folder() as name:
        artifact = options.artifact or Path(name) / "model.so"
        if options.artifact is None:
            build_artifact(options.model, artifact, options.size, options.threads, adapters)
        worst = 0.0
        for accuracy in check_accuracy(options.model, artifact, options.size, adapters, options.threads):
            print(accuracy, flush=True)
            worst = max(worst, accuracy.error / accuracy.bound)
    return int(worst > 1)


def report_winograd_errors(options: argparse.Namespace) -> int:
    """Prints the error of every algorithm for every shape of a 3x3 convolution."""
    from benchmarks.winograd_error import winograd_errors

    for layer in winograd_errors(options.family, options.size, options.only):
        print(layer, flush=True)
    return 0


def make_checkpoint(options: argparse.Namespace) -> int:
    """Writes a synthetic checkpoint."""
    from benchmarks.checkpoint import write_checkpoint

    parameters = write_checkpoint(options.output, options.family, options.dtype, options.seed)
    print(f"{options.output}: {parameters / 1e6:.1f} million parameters")
    return 0


def make_lokr(options: argparse.Namespace) -> int:
    """Writes a random LoKr adapter for a checkpoint, with factors of every form in turn."""
    from sdcomp.frontend.checkpoint import Checkpoint
    from sdcomp.frontend.family import detect
    from sdcomp.frontend.synthetic_lokr import Form, write_random_lokr

    with Checkpoint.open(options.model) as checkpoint:
        config = detect(checkpoint)
    try:
        modules = write_random_lokr(
            options.output, config, options.factor, _LOKR_EFFECT, options.seed, tuple(Form), options.linear
        )
    except OSError as error:
        raise UsageError(f"{options.output}: cannot be written: {error.strerror or error}") from None
    print(f"{options.output}: {modules} modules")
    return 0


def _cases(options: argparse.Namespace, folder: Path) -> list[Case]:
    if options.subject in LAYERS:
        return list(LAYERS[options.subject])
    artifact = options.artifact or folder / "model.so"
    if options.artifact is None:
        build_artifact(options.model, artifact, options.size, options.threads)
    place = (options.model, artifact, options.size)
    if options.subject == "unet":
        return [UNetCase(*place, batch, options.hoist_prompt) for batch in (1, 2)]
    if options.subject == "vae":
        return [DecodeCase(*place), EncodeCase(*place)]
    return [TextCase(*place)]


def _scratch_folder() -> TemporaryDirectory[str]:
    """For artifacts and converted models, gigabytes of them at full size; TMPDIR says where."""
    return TemporaryDirectory(prefix="sdcomp-benchmarks-")


def _report(records: list[Record], options: argparse.Namespace) -> int:
    print(table(records))
    if options.json is not None:
        write_json(records, options.json)
    return 0
