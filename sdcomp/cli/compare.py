"""`sdcomp compare`: an artifact beside onnxruntime."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from sdcomp.compare import Comparison, Report


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
    from sdcomp.compare import CompareOptions
    from sdcomp.compare import compare as run_both

    given = _read(inputs) if inputs is not None else {}
    options = CompareOptions(given, tolerance, repeats, threads, seed)
    with Stages() as stages:
        report = run_both(model, folder, options, stages.report)
    if as_json:
        typer.echo(json.dumps(_described(report), indent=2))
    else:
        _show(report)
    if not report.passed:
        raise typer.Exit(1)


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


def _described(report: "Report") -> dict[str, Any]:
    """JSON has no infinity: an error that is no number becomes null."""
    from dataclasses import asdict
    from math import isfinite

    rows = [
        {
            name: value if isinstance(value, str) or isfinite(value) else None
            for name, value in asdict(row).items()
        }
        for row in report.comparisons
    ]
    return {
        "passed": report.passed,
        "tolerance": report.tolerance,
        "threads": report.threads,
        "skipped": list(report.skipped),
        "comparisons": rows,
    }


def _show(report: "Report") -> None:
    from sdcomp.cli.errors import warn
    from sdcomp.cli.tables import columns, console

    header = ("program", "error", "largest", "artifact", "onnxruntime", "speed", "peak", "onnxruntime peak")
    title = f"artifact and onnxruntime, {report.threads} thread{'s' * (report.threads != 1)} each"
    rows = [_row(row, report.tolerance) for row in report.comparisons]
    console().print(columns(title, header, rows))
    if report.skipped:
        warn(f"the models have another size than {', '.join(report.skipped)}: these were not compared")
    verdict = "all within" if report.passed else "not all within"
    typer.echo(f"{verdict} the tolerance of {report.tolerance:g}")


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
