"""Runs command lines: in this process, where help and errors are quick, or in one of its own."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from sdcomp.cli.main import main


@dataclass(frozen=True)
class Result:
    """How a command ended."""

    code: int
    out: str
    err: str


def run_here(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> Result:
    """The result of `sdcomp ARGUMENTS` in this process; what was captured before is dropped."""
    capsys.readouterr()
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return Result(code, captured.out, captured.err)


def start(*arguments: str | Path, environment: Mapping[str, str] | None = None) -> "subprocess.Popen[str]":
    """`sdcomp ARGUMENTS` as a process with piped output, not deaf to Ctrl-C where this one is."""
    return subprocess.Popen(
        [sys.executable, "-m", "sdcomp", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **(environment or {})},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # background jobs inherit SIG_IGN
    )


def run_apart(*arguments: str | Path, environment: Mapping[str, str] | None = None) -> Result:
    """The result of `sdcomp ARGUMENTS` in a process of its own."""
    process = start(*arguments, environment=environment)
    out, err = process.communicate(timeout=300)
    return Result(process.returncode, out, err)
