"""sdcomp: an ahead-of-time compiler for Stable Diffusion.

sdcomp.build("model.safetensors", "model.so", sdcomp.BuildOptions(adapters=[sdcomp.AdapterFile(path)]))
with sdcomp.load("model.so") as model:
    images = model.txt2img("a lovely cat")
"""

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sdcomp.compiler import AdapterFile, BuildOptions, build
    from sdcomp.export import ExportOptions, export_onnx
    from sdcomp.runtime.pipeline import Generated, GenerateOptions, Pipeline

__version__ = "0.1.0"
__all__ = [
    "AdapterFile",
    "BuildOptions",
    "ExportOptions",
    "GenerateOptions",
    "Generated",
    "Pipeline",
    "build",
    "export_onnx",
    "load",
]

_HOMES = {
    "AdapterFile": "sdcomp.compiler",
    "BuildOptions": "sdcomp.compiler",
    "ExportOptions": "sdcomp.export",
    "build": "sdcomp.compiler",
    "export_onnx": "sdcomp.export",
    "GenerateOptions": "sdcomp.runtime.pipeline",
    "Generated": "sdcomp.runtime.pipeline",
    "Pipeline": "sdcomp.runtime.pipeline",
}


def load(path: str | os.PathLike[str], threads: int | None = None, verify: bool = True) -> "Pipeline":
    """Opens an artifact that `build` wrote. Opening runs its code: open only artifacts that you trust."""
    from sdcomp.runtime.pipeline import Pipeline

    return Pipeline.open(path, threads, verify)


def __getattr__(name: str) -> Any:
    """Imports on first use: `import sdcomp` alone loads neither the compiler nor the runtime."""
    if name not in _HOMES:
        raise AttributeError(f"module 'sdcomp' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
