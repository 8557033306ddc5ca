"""How a command ends: an exit code, and one line on stderr where something went wrong."""

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

import typer

from sdcomp.errors import SdcompError

INTERRUPTED = 130
"""128 + SIGINT, as shells report it. typer returns it for Ctrl-C."""

TERMINATED = 128 + signal.SIGTERM


def run_guarded(command: Callable[[], Any]) -> int:
    """The exit code of `command`; what a user can mend is told in one line, anything else goes on.

    SIGTERM ends the command like Ctrl-C does, so that it too leaves no half-written file.
    """
    signal.signal(signal.SIGTERM, _terminate)
    try:
        code = command() or 0
        sys.stdout.flush()
    except SdcompError as error:
        return report(str(error), error.exit_code)
    except typer.TyperException as error:
        return report(error.format_message(), error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except MemoryError:
        return report("out of memory; close other programs, or ask for a smaller size", 1)
    except BrokenPipeError:
        # Whoever read stdout has seen enough. Python flushes it again at exit, so it must go somewhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return report("interrupted", INTERRUPTED) if code == INTERRUPTED else int(code)


def report(message: str, exit_code: int) -> int:
    """Prints an error and returns its exit code."""
    prefix = "" if exit_code == INTERRUPTED else "error: "
    print(f"{prefix}{message}", file=sys.stderr)
    return exit_code


def warn(message: str) -> None:
    """Prints a warning."""
    print(f"warning: {message}", file=sys.stderr)


def _terminate(number: int, frame: object) -> None:
    del number, frame
    sys.exit(TERMINATED)
