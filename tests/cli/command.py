"""Runs command lines: in this process, where help and errors are quick, or in one of its own."""

import os
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
    """`sdcomp ARGUMENTS` as a process with piped output."""
    command = [sys.executable, "-m", "sdcomp", *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, stdout=pipe, stderr=pipe, text=True, env={**os.environ, **(environment or {})}
    )


def run_apart(*arguments: str | Path, environment: Mapping[str, str] | None = None) -> Result:
    """The result of `sdcomp ARGUMENTS` in a process of its own."""
    process = start(*arguments, environment=environment)
    out, err = process.communicate(timeout=300)
    return Result(process.returncode, out, err)
