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
    """Compiles a small trained model with and without its LoKr adapters, and draws the same with each."""
    import tempfile
    import time

    from sdcomp.cli.progress import Stages
    from sdcomp.cli.tables import columns, console, seconds_text
    from sdcomp.demo import PROMPTS, make_demo

    folder = Path(output) if output is not None else Path(tempfile.mkdtemp(prefix="sdcomp-demo-"))
    begin = time.perf_counter()
    with Stages() as stages:
        made = make_demo(folder, stages.report)
    together = time.perf_counter() - begin
    rows = [
        ("build", *map(seconds_text, made.build_seconds.values())),
        *(
            (prompt, *(seconds_text(seconds[number]) for seconds in made.picture_seconds.values()))
            for number, prompt in enumerate(PROMPTS)
        ),
    ]
    console().print(columns(f"time, together {seconds_text(together)}", ["", *made.build_seconds], rows))
    for label, path in (*made.artifacts.items(), ("contact sheet", made.sheet)):
        typer.echo(f"{label:16}  {path}")
