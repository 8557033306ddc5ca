"""`sdcomp build`: from files to an artifact."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from sdcomp.compiler import BuildOptions


def build(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Checkpoint, a .safetensors file.")],
    output: Annotated[str, typer.Option("-o", "--output", metavar="FILE", help="Artifact to write.")],
    lokr: Annotated[
        list[str] | None,
        typer.Option(
            "--lokr",
            "--lora",
            metavar="FILE[:STRENGTH[:TE_STRENGTH]]",
            help="Adapter of any kind to fold in; may repeat. TE_STRENGTH is for the text encoder.",
        ),
    ] = None,
    live: Annotated[
        list[str] | None,
        typer.Option(
            "--live",
            metavar="FILE[:STRENGTH[:TE_STRENGTH]]",
            help="LoKr or LoRA that `run --adapter` may set the strength of; may repeat.",
        ),
    ] = None,
    size: Annotated[
        list[str] | None,
        typer.Option(
            "--size", metavar="WxH", help="Picture size in pixels; may repeat.", show_default="512x512"
        ),
    ] = None,
    weights: Annotated[
        str,
        typer.Option(
            "--weights",
            metavar="auto|f32|f16",
            help="How matrices are stored. auto: f16 stays f16, larger f32 matrices are rounded to f16.",
        ),
    ] = "auto",
    target: Annotated[
        str, typer.Option("--target", metavar="native|NAME", help="native, x86-64-v3, x86-64-v4 or aarch64.")
    ] = "native",
    threads: Annotated[
        int,
        typer.Option("--threads", metavar="N", min=0, help="Threads of runs that do not say; 0: all CPUs."),
    ] = 0,
    split_weights: Annotated[
        bool, typer.Option("--split-weights", help="Write the weights beside the library, as FILE.weights.")
    ] = False,
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
    """Compiles a checkpoint, with adapters, into one native library."""
    from sdcomp.cli.parsing import parse_adapter, parse_size
    from sdcomp.compiler import DEFAULT_SIZE, AdapterFile, BuildOptions

    options = BuildOptions(
        adapters=[
            *(AdapterFile(*parse_adapter(text)) for text in lokr or ()),
            *(AdapterFile(*parse_adapter(text, "--live"), live=True) for text in live or ()),
        ],
        sizes=[parse_size(text) for text in size or ()] or [DEFAULT_SIZE],
        weights=weights,
        target=target,
        threads=threads,
        split_weights=split_weights,
        allow_unmatched=allow_unmatched,
        prediction=prediction,
        heads=heads,
    )
    _build(model, Path(output), options)


def _build(model: str, output: Path, options: "BuildOptions") -> None:
    from sdcomp.cli.debug import (
        CHOICES,
        TIMES,
        PassObserver,
        debug_level,
        describe_choices,
        kernel_observer,
        say,
    )
    from sdcomp.cli.progress import Stages
    from sdcomp.cli.tables import seconds_text
    from sdcomp.compiler import build as compile_model

    level = debug_level()
    with Stages(visible=level < TIMES) as stages:
        stages.report("read", 0, 1)
        observers = PassObserver(level), kernel_observer(level)
        manifest = compile_model(model, output, options, stages.report, *observers)
    if level >= CHOICES:
        say(describe_choices(manifest))
    if level >= TIMES:
        say("\n".join(f"stage {stage}: {seconds_text(seconds)}" for stage, seconds in stages.seconds.items()))
    _summarise(manifest, output, sum(stages.seconds.values()))


def _summarise(manifest: dict[str, Any], output: Path, seconds: float) -> None:
    from sdcomp.cli.errors import warn
    from sdcomp.cli.tables import bytes_text, seconds_text
    from sdcomp.frontend.adapters.reader import listed

    for note in (*manifest["checkpoint"]["notes"], *manifest["notes"]):
        typer.echo(f"note: {note}")
    for adapter in manifest["adapters"]:
        how = f"live as {adapter['name']!r}, by default at" if adapter["live"] else "at"
        strength = f"{adapter['strength']:g}"
        typer.echo(f"adapter {adapter['file']} {how} strength {strength}: {adapter['modules']} modules")
    unmatched = manifest["unmatched_modules"]
    if unmatched:
        warn(f"{len(unmatched)} modules of the adapters are not in this model: {listed(unmatched)}")
    sizes = ", ".join(f"{width}x{height}" for width, height in manifest["sizes"])
    written = f"{output}: {bytes_text(output.stat().st_size)}, {manifest['target']}, sizes {sizes}"
    typer.echo(f"{written}, built in {seconds_text(seconds)}")
