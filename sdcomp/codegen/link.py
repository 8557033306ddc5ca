"""Links kernels, plan and runtime into one shared library, with the toolchain of the `ziglang` package on
every machine.
"""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from sdcomp.codegen.targets import Target
from sdcomp.errors import LinkError
from sdcomp.runtime.sources import COMPILE_FLAGS, HEADER_DIRECTORY, LINK_FLAGS, runtime_sources

_EXPORTS = "{ global: sdcomp_*; local: *; };\n"
_LAST_LINES = 6


def link(plan_source: str, objects: Sequence[bytes], target: Target, folder: Path) -> Path:
    """The path of the library in `folder`, which also gets the intermediate files.

    Raises LinkError with the tool's words.
    """
    plan, exports, library = "plan.c", "exports.map", "model.so"
    (folder / plan).write_text(plan_source)
    (folder / exports).write_text(_EXPORTS)
    files = []
    for number, content in enumerate(objects):
        files.append(f"kernels_{number}.o")
        (folder / files[-1]).write_bytes(content)
    sources = [plan, *map(str, runtime_sources()), *files]
    flags = ["-target", _zig_triple(target), *COMPILE_FLAGS, f"-I{HEADER_DIRECTORY}", "-shared"]
    run_zig(
        ["cc", *flags, f"-Wl,--version-script={exports}", "-o", library, *sources, "-lm", *LINK_FLAGS], folder
    )
    return folder / library


def run_zig(arguments: Sequence[str], folder: Path) -> None:
    """`python -m ziglang` with these arguments, in `folder`, whose own name must not be among them:
    zig and lld trip over commas, quotes and percent signs.

    Raises LinkError with the last lines of what it said.
    """
    command = [sys.executable, "-m", "ziglang", *arguments]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    except OSError as error:
        raise LinkError(f"the C compiler of the ziglang package cannot be started: {error}") from None
    if done.returncode:
        said = " | ".join(done.stderr.strip().splitlines()[-_LAST_LINES:])
        raise LinkError(f"linking failed (zig {arguments[0]}, exit status {done.returncode}): {said}")


def _zig_triple(target: Target) -> str:
    """zig leaves the vendor out: x86_64-linux-gnu."""
    machine, _, system, abi = target.triple.split("-")
    return f"{machine}-{system}-{abi}"
