"""Help answers without importing anything heavy."""

import subprocess
import sys

import pytest

HEAVY = ("numpy", "llvmlite", "PIL", "networkx", "onnx", "tokenizers", "safetensors")

PROBE = """
import sys
from sdcomp.cli.main import main
code = main(sys.argv[1:])
print(*sorted(set(sys.modules) & {modules!r}), file=sys.stderr)
sys.exit(code)
"""


@pytest.mark.parametrize("command", ["", "build", "run", "inspect", "opt", "demo", "export", "compare"])
def test_help_loads_nothing_heavy(command: str) -> None:
    arguments = [command, "--help"] if command else ["--help"]
    probe = PROBE.format(modules=set(HEAVY))
    done = subprocess.run(
        [sys.executable, "-c", probe, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert done.stderr.split() == []
    assert f"Usage: sdcomp {command}".strip() in done.stdout


def test_version() -> None:
    from sdcomp import __version__

    done = subprocess.run(
        [sys.executable, "-m", "sdcomp", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"sdcomp {__version__}\n"
