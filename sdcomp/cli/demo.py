"""`sdcomp demo`: the whole way, with a model that needs no download."""

from pathlib import Path
from typing import Annotated

import typer


def demo(
    output: Annotated[
        str | None,
        typer.Option("-o", "--output", metavar="FOLDER", help="Where to write.", show_default="temporary"),
    ] = None,
) -> None:
    """Compiles a small random model without and with a LoKr adapter, and makes a picture with each."""
    import tempfile

    from sdcomp.cli.progress import Stages
    from sdcomp.cli.tables import console, facts, seconds_text
    from sdcomp.demo import make_demo

    typer.echo(
        "The weights are random: pictures are abstract, and an adapter makes them different, not better."
    )
    folder = Path(output) if output is not None else Path(tempfile.mkdtemp(prefix="sdcomp-demo-"))
    with Stages() as stages:
        made = make_demo(folder, stages.report)
    times = {stage: seconds_text(seconds) for stage, seconds in made.seconds.items()}
    together = seconds_text(sum(made.seconds.values()))
    console().print(facts("time", {**times, "together": together}))
    for label, path in (("without", made.plain), ("with", made.adapted), ("side by side", made.sheet)):
        typer.echo(f"{label:12}  {path}")
