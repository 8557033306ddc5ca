"""`sdcomp tune`: measures what kernels cost on this machine."""

from typing import Annotated

import typer


def tune(
    target: Annotated[
        str,
        typer.Option("--target", metavar="native|NAME", help="Whose kernels; one that this machine can run."),
    ] = "native",
    output: Annotated[
        str | None,
        typer.Option(
            "-o", "--output", metavar="FILE", help="Where to write.", show_default="the user's cache"
        ),
    ] = None,
) -> None:
    """Measures what kernels cost on this machine. Builds choose between convolution algorithms by it."""
    from pathlib import Path

    from sdcomp.cli.progress import Stages
    from sdcomp.cli.tables import columns, console
    from sdcomp.codegen.costs import PARTS, cache_path, write_costs
    from sdcomp.codegen.targets import is_runnable, resolve
    from sdcomp.codegen.tune import measure_costs
    from sdcomp.errors import UsageError

    chosen = resolve(target)
    if not is_runnable(chosen):
        raise UsageError(f"--target {target}: this machine cannot run it; tune on one that can")
    path = Path(output) if output is not None else cache_path(chosen)
    with Stages() as stages:
        stages.report("measure", 0, 1)
        costs = measure_costs(chosen, lambda done, total: stages.report("measure", done, total))
    write_costs(costs, path)
    rows = [
        (algorithm, *(f"{1000 * times[part]:.1f}" for part in PARTS))
        for algorithm, times in costs.nanoseconds.items()
    ]
    title = f"picoseconds per element for {chosen.name} on {costs.cpu}"
    console().print(columns(title, ("algorithm", *PARTS), rows))
    typer.echo(f"{path}: written")
