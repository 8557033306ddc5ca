"""`sdcomp export`: from files to a folder of ONNX models."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from sdcomp.export import Exported


def export(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Checkpoint, a .safetensors file.")],
    output: Annotated[str, typer.Option("-o", "--output", metavar="FOLDER", help="Folder to write.")],
    lokr: Annotated[
        list[str] | None,
        typer.Option(
            "--lokr",
            "--lora",
            metavar="FILE[:STRENGTH[:TE_STRENGTH]]",
            help="Adapter of any kind to fold in; may repeat. TE_STRENGTH is for the text encoder.",
        ),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option("--size", metavar="WxH", help="Picture size in pixels.", show_default="512x512"),
    ] = None,
    dynamic: Annotated[
        bool, typer.Option("--dynamic", help="Leave the picture size free, as the batch always is.")
    ] = False,
    weights: Annotated[
        str,
        typer.Option("--weights", metavar="f32|f16", help="How matrices are stored; arithmetic is f32."),
    ] = "f32",
    plan: Annotated[
        bool, typer.Option("--plan", help="Also write the programs after all passes, as a build has them.")
    ] = False,
    target: Annotated[
        str,
        typer.Option(
            "--target", metavar="native|NAME", help="The build's --target: with --plan alone it counts."
        ),
    ] = "native",
    allow_unmatched: Annotated[
        bool, typer.Option("--allow-unmatched", help="Leave out modules that only the adapter has.")
    ] = False,
    prediction: Annotated[
        str | None,
        typer.Option("--prediction", metavar="eps", help="What the UNet predicts, against the file."),
    ] = None,
    heads: Annotated[
        int | None,
        typer.Option(
            "--heads", metavar="N", min=1, help="Attention heads of the UNet.", show_default="the family's"
        ),
    ] = None,
) -> None:
    """Writes a checkpoint, with adapters folded in, as ONNX models that Hugging Face's pipelines run."""
    from sdcomp.cli.parsing import parse_adapter, parse_size
    from sdcomp.cli.progress import Stages
    from sdcomp.compiler import DEFAULT_SIZE, AdapterFile
    from sdcomp.errors import UsageError
    from sdcomp.export import ExportOptions, export_onnx

    if dynamic and size is not None:
        raise UsageError(f"--size {size}: with --dynamic every size will do; leave one of them out")
    fixed = parse_size(size) if size is not None else DEFAULT_SIZE
    options = ExportOptions(
        adapters=[AdapterFile(*parse_adapter(text)) for text in lokr or ()],
        size=None if dynamic else fixed,
        weights=weights,
        plan=plan,
        target=target,
        allow_unmatched=allow_unmatched,
        prediction=prediction,
        heads=heads,
    )
    folder = Path(output)
    with Stages() as stages:
        stages.report("read", 0, 1)
        exported = export_onnx(model, folder, options, stages.report)
    _summarise(exported, folder, sum(stages.seconds.values()))


def _summarise(exported: "Exported", folder: Path, seconds: float) -> None:
    from sdcomp.cli.errors import warn
    from sdcomp.cli.tables import bytes_text, seconds_text
    from sdcomp.frontend.adapters.reader import listed

    for note in exported.notes:
        typer.echo(f"note: {note}")
    if exported.unmatched:
        count = len(exported.unmatched)
        warn(f"{count} modules of the adapters are not in this model: {listed(list(exported.unmatched))}")
    written = f"{folder}: {len(exported.models)} models, {bytes_text(exported.bytes)}"
    typer.echo(f"{written}, exported in {seconds_text(seconds)}")
