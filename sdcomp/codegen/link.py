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
    plan, exports, library = folder / "plan.c", folder / "exports.map", folder / "model.so"
    plan.write_text(plan_source)
    exports.write_text(_EXPORTS)
    files = []
    for number, content in enumerate(objects):
        files.append(folder / f"kernels_{number}.o")
        files[-1].write_bytes(content)
    sources = [str(path) for path in (plan, *runtime_sources(), *files)]
    flags = ["-target", _zig_triple(target), *COMPILE_FLAGS, f"-I{HEADER_DIRECTORY}", "-shared"]
    run_zig(
        ["cc", *flags, f"-Wl,--version-script={exports}", "-o", str(library), *sources, "-lm", *LINK_FLAGS]
    )
    return library


def run_zig(arguments: Sequence[str]) -> None:
    """`python -m ziglang` with these arguments. Raises LinkError with the last lines of what it said."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "ziglang", *arguments], capture_output=True, text=True, check=False
        )
    except OSError as error:
        raise LinkError(f"the C compiler of the ziglang package cannot be started: {error}") from None
    if done.returncode:
        said = " | ".join(done.stderr.strip().splitlines()[-_LAST_LINES:])
        raise LinkError(f"linking failed (zig {arguments[0]}, exit status {done.returncode}): {said}")


def _zig_triple(target: Target) -> str:
    """zig leaves the vendor out: x86_64-linux-gnu."""
    machine, _, system, abi = target.triple.split("-")
    return f"{machine}-{system}-{abi}"
