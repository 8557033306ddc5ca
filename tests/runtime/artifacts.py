"""Small artifacts by hand, without the compiler: `native/plan_fake.c`, the runtime and a payload."""

import subprocess
import sys
from pathlib import Path

import numpy as np

from sdcomp.runtime.payload import PayloadWriter, append_payload
from sdcomp.runtime.sources import COMPILE_FLAGS, HEADER_DIRECTORY, LINK_FLAGS, runtime_sources

FAKE_PLAN = Path(__file__).parent / "native" / "plan_fake.c"
FAKE_FLOATS = 600_001


def zig(*arguments: str | Path) -> None:
    command = [
        sys.executable,
        "-m",
        "ziglang",
        "cc",
        *COMPILE_FLAGS,
        f"-I{HEADER_DIRECTORY}",
        *map(str, arguments),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def compile_runtime(folder: Path) -> list[Path]:
    objects = [folder / f"{source.stem}.o" for source in runtime_sources()]
    for source, target in zip(runtime_sources(), objects, strict=True):
        zig("-mcpu=baseline", "-Wall", "-Wextra", "-Werror", "-c", source, "-o", target)
    return objects


def link_library(path: Path, objects: list[Path], *macros: str) -> Path:
    """Links the fake plan, in the variant that the macros ask for, with the compiled runtime."""
    zig("-mcpu=baseline", "-shared", *macros, FAKE_PLAN, *objects, *LINK_FLAGS, "-o", path)
    return path


def fake_weights() -> np.ndarray:
    return (np.arange(FAKE_FLOATS) % 1000).astype(np.float32)


def write_weights(path: Path) -> Path:
    with open(path, "wb") as file:
        writer = PayloadWriter(file, path)
        writer.write(fake_weights())
        writer.finish()
    return path


def add_payload(library: Path) -> Path:
    weights = write_weights(library.with_suffix(".payload"))
    append_payload(library, weights)
    weights.unlink()
    return library
