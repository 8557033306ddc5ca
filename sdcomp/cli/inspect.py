"""`sdcomp inspect`: what is in a file."""

import json
from pathlib import Path
from typing import Annotated

import typer


def inspect(
    file: Annotated[str, typer.Argument(metavar="FILE", help="An artifact, a checkpoint or an adapter.")],
    model: Annotated[
        str | None,
        typer.Option("--model", metavar="MODEL", help="For an adapter: the checkpoint to match it with."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Tells what is in an artifact, a checkpoint or an adapter, without running any of it."""
    from sdcomp.cli.describe import describe
    from sdcomp.cli.render import render
    from sdcomp.cli.tables import console

    description = describe(Path(file), Path(model) if model is not None else None)
    if as_json:
        typer.echo(json.dumps(description, indent=2))
        return
    out = console()
    for table in render(description):
        out.print(table)
