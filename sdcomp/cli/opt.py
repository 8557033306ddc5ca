"""`sdcomp opt`: runs passes on IR text."""

import sys
from pathlib import Path
from typing import Annotated

import typer


def opt(
    file: Annotated[str, typer.Argument(metavar="[FILE|-]", help="IR text; - is standard input.")] = "-",
    passes: Annotated[
        list[str] | None,
        typer.Option("-p", "--pass", metavar="PASS", help="NAME or NAME{OPTION=VALUE,...}; may repeat."),
    ] = None,
    list_passes: Annotated[bool, typer.Option("--list", help="List the passes and their options.")] = False,
) -> None:
    """Runs named passes on IR text, and prints what they make of it."""
    if list_passes:
        typer.echo(_listing())
        return
    from sdcomp.ir.text import parse_module, print_module
    from sdcomp.ir.verify import verify
    from sdcomp.passes.registry import create_pass

    chosen = [create_pass(text) for text in passes or ()]
    module = parse_module(_read(file))
    verify(module)
    for step in chosen:
        module = step.apply(module)
        verify(module)
    typer.echo(print_module(module), nl=False)


def _read(file: str) -> str:
    from sdcomp.errors import ParseError, UsageError

    try:
        return sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{file}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ParseError(f"{file}: is not IR text: it is not UTF-8") from None


def _listing() -> str:
    from dataclasses import fields

    from sdcomp.passes.registry import create_pass, pass_names

    lines = []
    for name in pass_names():
        made = create_pass(name)
        options = ", ".join(f"{field.name}={getattr(made, field.name)}" for field in fields(made))
        meaning = (sys.modules[type(made).__module__].__doc__ or "").partition("\n")[0]
        lines.append(f"{name}{f'{{{options}}}' if options else ''}: {meaning}")
    return "\n".join(lines)
