"""The command `sdcomp`.

Modules of commands import nothing but typer and the errors; what a command needs it imports when it runs, so
that help answers at once.
"""

from collections.abc import Sequence
from typing import Annotated

import typer

from sdcomp import __version__
from sdcomp.cli.build import build
from sdcomp.cli.compare import compare
from sdcomp.cli.demo import demo
from sdcomp.cli.errors import run_guarded
from sdcomp.cli.export import export
from sdcomp.cli.inspect import inspect
from sdcomp.cli.opt import opt
from sdcomp.cli.run import run
from sdcomp.cli.tune import tune

app = typer.Typer(
    help="Compiles Stable Diffusion checkpoints and adapters into native libraries that make pictures.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for command in (build, run, inspect, export, compare, opt, tune, demo):
    app.command()(command)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"sdcomp {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options of all commands. `version` is handled by its callback."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command line, `sys.argv` by default; returns the exit code."""
    return run_guarded(lambda: app(args=arguments, prog_name="sdcomp", standalone_mode=False))
