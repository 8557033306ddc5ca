"""`sdcomp compare`: an artifact beside onnxruntime."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sdcomp.compare import Comparison, KernelReport, KernelResult, Picture, Report

_MOST_KERNELS = 20


def compare(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Artifact of `sdcomp build`: a program, to be trusted.")
    ],
    folder: Annotated[
        str, typer.Argument(metavar="FOLDER", help="Models of `sdcomp export`, of the same files.")
    ],
    inputs: Annotated[
        str | None,
        typer.Option(
            "--inputs",
            metavar="FILE.npz",
            help="Arrays by network/input, such as unet/latents; others are random.",
        ),
    ] = None,
    tolerance: Annotated[
        float, typer.Option("--tolerance", metavar="X", min=0, help="Largest relative error that passes.")
    ] = 2e-3,
    repeats: Annotated[
        int, typer.Option("--repeats", metavar="N", min=1, help="Timed runs of each side.")
    ] = 3,
    prompt: Annotated[str, typer.Option("--prompt", metavar="TEXT", help="Of the picture.")] = "a lovely cat",
    steps: Annotated[
        int, typer.Option("--steps", metavar="N", min=0, help="Steps of the picture; 0: no picture.")
    ] = 4,
    per_kernel: Annotated[
        bool,
        typer.Option("--per-kernel", help="Find the kernel that is wrong, with models of `export --plan`."),
    ] = False,
    threads: Annotated[
        int | None,
        typer.Option(
            "--threads", metavar="N", min=1, help="Threads of each side.", show_default="the artifact's"
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", metavar="N", min=0, help="Seed of random inputs.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Runs the networks of an artifact and of exported models on the same inputs; fails if they differ."""
    from sdcomp.cli.progress import Stages
    from sdcomp.compare import CompareOptions, compare, compare_kernels

    given = _read(inputs) if inputs is not None else {}
    options = CompareOptions(given, tolerance, repeats, prompt, steps, threads, seed)
    with Stages() as stages:
        report = (compare_kernels if per_kernel else compare)(model, folder, options, stages.report)
    if not _passed(report, as_json):
        raise typer.Exit(1)


def _passed(report: "Report | KernelReport", as_json: bool) -> bool:
    """Prints a report; whether all that it compares is within the tolerance."""
    from sdcomp.compare import KernelReport

    if as_json:
        typer.echo(json.dumps(_described(report), indent=2))
    elif isinstance(report, KernelReport):
        _show_kernels(report)
    else:
        _show(report)
    return report.passed


def _read(file: str) -> dict[str, Any]:
    """The arrays of an .npz file; nothing in it is executed."""
    import zipfile

    import numpy as np

    from sdcomp.errors import LoadError

    try:
        with np.load(file, allow_pickle=False) as archive:
            return dict(archive)
    except (OSError, ValueError, EOFError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        raise LoadError(f"{file}: is not an .npz file of plain arrays: {error}") from None


def _described(report: "Report | KernelReport") -> dict[str, Any]:
    """All that a report holds."""
    from dataclasses import asdict

    described: dict[str, Any] = _finite(asdict(report))
    return {"passed": report.passed, **described}


def _finite(value: Any) -> Any:
    """JSON has no infinity: a number that is none becomes null."""
    from math import isfinite

    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not isfinite(value) else value


def _show(report: "Report") -> None:
    from sdcomp.cli.tables import columns, console

    header = ("program", "error", "largest", "artifact", "onnxruntime", "speed", "peak", "onnxruntime peak")
    title = f"artifact and onnxruntime, {_threads(report)} each"
    rows = [_row(row, report.tolerance) for row in report.comparisons]
    console().print(columns(title, header, rows))
    if report.picture is not None:
        typer.echo(_picture_text(report.picture))
    _warn_of_skipped(report)
    verdict = "all within" if report.passed else "not all within"
    typer.echo(f"{verdict} the tolerance of {report.tolerance:g}")


def _threads(report: "Report | KernelReport") -> str:
    return f"{report.threads} thread{'s' * (report.threads != 1)}"


def _warn_of_skipped(report: "Report | KernelReport") -> None:
    from sdcomp.cli.errors import warn

    if report.skipped:
        warn(f"the models have another size than {', '.join(report.skipped)}: these were not compared")


def _picture_text(picture: "Picture") -> str:
    from math import isfinite

    from sdcomp.cli.tables import bytes_text, plain

    width, height = picture.size
    what = f"picture: {str(plain(picture.prompt))!r}, {width}x{height}, {picture.steps} steps"
    psnr = f"{picture.psnr:.1f} dB" if isfinite(picture.psnr) else "infinite: the same"
    peaks = f"peak {bytes_text(picture.peak_bytes)}, onnxruntime {bytes_text(picture.onnx_peak_bytes)}"
    return f"{what}: PSNR {psnr}; {peaks}"


def _row(row: "Comparison", tolerance: float) -> tuple[str, ...]:
    from sdcomp.cli.tables import bytes_text, seconds_text

    once = f" + {seconds_text(row.once_seconds)} once" if row.once_seconds else ""
    return (
        row.program,
        f"{row.error:.1e}{'' if row.error <= tolerance else ' FAILED'}",
        f"{row.largest:.1e}",
        seconds_text(row.seconds) + once,
        seconds_text(row.onnx_seconds),
        f"{row.onnx_seconds / row.seconds:.2f}x",
        bytes_text(row.peak_bytes),
        bytes_text(row.onnx_peak_bytes),
    )


def _show_kernels(report: "KernelReport") -> None:
    from sdcomp.cli.tables import columns, console

    header = ("program", "kernels", "largest error", "in", "label")
    title = f"each kernel of the artifact on onnxruntime's values, {_threads(report)}"
    console().print(columns(title, header, [_worst(rows) for rows in _by_program(report)]))
    departing = report.departing
    if departing:
        details = ("program", "number", "kernel", "label", "node", "error", "largest")
        shown = [_kernel_row(found) for found in departing[:_MOST_KERNELS]]
        console().print(columns("kernels that depart, the first one first", details, shown))
    if len(departing) > _MOST_KERNELS:
        typer.echo(f"and {len(departing) - _MOST_KERNELS} more; --json lists all")
    _warn_of_skipped(report)
    count = f"{len(departing)} of" if departing else "none of"
    verb = "depart" if len(departing) > 1 else "departs"
    typer.echo(
        f"{count} {len(report.results)} nodes {verb} by more than the tolerance of {report.tolerance:g}"
    )


def _by_program(report: "KernelReport") -> "Iterator[list[KernelResult]]":
    from itertools import groupby

    return (list(rows) for _, rows in groupby(report.results, lambda found: found.program))


def _worst(rows: "list[KernelResult]") -> tuple[str, ...]:
    """A program by the largest error of its kernels."""
    worst = max(rows, key=lambda found: found.error)
    kernels = sum(len(found.kinds) for found in rows)
    return (worst.program, str(kernels), f"{worst.error:.1e}", _kinds(worst), worst.label)


def _kernel_row(found: "KernelResult") -> tuple[str, ...]:
    error, largest = f"{found.error:.1e}", f"{found.largest:.1e}"
    return (found.program, str(found.kernel), _kinds(found), found.label, found.node, error, largest)


def _kinds(found: "KernelResult") -> str:
    return ", ".join(found.kinds)
