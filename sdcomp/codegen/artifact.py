"""Assembles an artifact: plans programs, writes the payload, emits and links code, and puts the file in
place at the end.
"""

import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sdcomp.codegen.fold import fold
from sdcomp.codegen.kernels.base import Kernel
from sdcomp.codegen.link import link
from sdcomp.codegen.module import emit_objects, name_kernels
from sdcomp.codegen.plan import Buffer
from sdcomp.codegen.tables import PlannedProgram, Tables
from sdcomp.codegen.targets import Target
from sdcomp.codegen.values import VALUES, encode_values
from sdcomp.errors import LinkError
from sdcomp.ir.graph import Module
from sdcomp.ir.interpret import WeightReader
from sdcomp.passes.pipeline import plan
from sdcomp.passes.plan_memory import aligned
from sdcomp.runtime.payload import WEIGHTS_SUFFIX, PayloadWriter, append_payload

_PAGE = 4096

Progress = Callable[[str, int, int], None]
"""Stage, steps done, steps in all."""

Inspect = Callable[[dict[Kernel, str], Target], None]
"""Receives the distinct kernels with their symbols before they are compiled."""


@dataclass(frozen=True)
class Recipe:
    """What to build an artifact from. `manifest` is completed with what only the build knows."""

    module: Module
    read_weight: WeightReader
    target: Target
    weights: str
    manifest: Mapping[str, Any]
    assets: Mapping[str, bytes] = field(default_factory=dict)
    split_weights: bool = False
    inspect: Inspect | None = None


def write_artifact(recipe: Recipe, path: Path, progress: Progress) -> dict[str, Any]:
    """Builds `path` (and `path.weights` if split); returns the manifest. Nothing is left behind on failure.

    Raises PassError, CodegenError, LoadError, AdapterError or LinkError.
    """
    try:
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
            return _Build(recipe, path, Path(folder), progress).run()
    except OSError as error:
        raise LinkError(f"{path}: cannot write the artifact: {error.strerror or error}") from None


class _Build:
    def __init__(self, recipe: Recipe, path: Path, folder: Path, progress: Progress) -> None:
        self.recipe, self.path, self.folder, self.progress = recipe, path, folder, progress

    def run(self) -> dict[str, Any]:
        programs = self._plan()
        symbols = name_kernels(planned.program for planned in programs)
        if self.recipe.inspect is not None:
            self.recipe.inspect(symbols, self.recipe.target)
        # Weights first: a damaged one is reported before time goes into kernels.
        payload = self.folder / "payload"
        with open(payload, "wb") as file:
            writer = PayloadWriter(file, self.path)
            offsets = self._write_weights(writer, programs)
            assets = {
                name: {"offset": writer.write(data), "bytes": len(data)}
                for name, data in (*self.recipe.assets.items(), (VALUES, encode_values(programs)))
            }
            weights_bytes, weights_hash = writer.finish()
        self.progress("compile", 0, 1)
        objects = emit_objects(symbols, self.recipe.target)
        state_offsets, state_bytes = _place_state(programs)
        tables = Tables(
            programs,
            symbols,
            self.recipe.target,
            offsets,
            state_offsets,
            state_bytes,
            weights_bytes,
            weights_hash,
            "",
        )
        manifest = {
            **self.recipe.manifest,
            "assets": assets,
            "weights_bytes": weights_bytes,
            "programs": _describe(tables),
        }
        self.progress("link", 0, 1)
        tables = Tables(**{**vars(tables), "manifest": json.dumps(manifest)})
        library = link(tables.source(), objects, self.recipe.target, self.folder)
        self._place(library, payload)
        return manifest

    def _plan(self) -> list[PlannedProgram]:
        planned: list[PlannedProgram] = []
        for program in plan(self.recipe.module, self.recipe.target, self.recipe.weights):
            planned.append(program)
            self.progress("plan", len(planned), len(self.recipe.module.graphs))
        return planned

    def _write_weights(self, writer: PayloadWriter, programs: Sequence[PlannedProgram]) -> dict[Buffer, int]:
        """Every packed weight once, in the order in which programs read them; a program's first one starts a
        page.
        """
        todo: dict[Buffer, int] = {}
        for planned in programs:
            fresh = [buffer for buffer in planned.weights() if buffer not in todo]
            todo.update({buffer: _PAGE if index == 0 else 64 for index, buffer in enumerate(fresh)})
        offsets: dict[Buffer, int] = {}
        total = sum(buffer.bytes for buffer in todo)
        done = 0
        for buffer, alignment in todo.items():
            assert buffer.weight is not None
            self.progress("weights", done, total)
            array = fold(buffer.weight, self.recipe.read_weight)
            offsets[buffer] = writer.write(array, alignment)
            done += buffer.bytes
        return offsets

    def _place(self, library: Path, payload: Path) -> None:
        """Renames finished files over old ones: whoever opens the artifact sees the old or the new one,
        never half.
        """
        if self.recipe.split_weights:
            os.replace(payload, self.path.with_name(self.path.name + WEIGHTS_SUFFIX))
        else:
            append_payload(library, payload, self.path)
        os.replace(library, self.path)


def _place_state(programs: Sequence[PlannedProgram]) -> tuple[dict[Buffer, int], int]:
    offsets: dict[Buffer, int] = {}
    end = 0
    for planned in programs:
        for buffer in sorted(planned.state(True) | planned.state(False), key=lambda b: b.name):
            if buffer not in offsets:
                offsets[buffer] = end
                end += aligned(buffer.bytes)
    return offsets, end


def _describe(tables: Tables) -> list[dict[str, Any]]:
    """What `inspect` shows of each program."""
    described = []
    for planned in tables.programs:
        kinds: dict[str, int] = {}
        for call in planned.program.calls:
            kinds[call.kernel.kind] = kinds.get(call.kernel.kind, 0) + 1
        begin, end = tables.weights_range(planned)
        described.append(
            {
                "name": planned.program.name,
                "inputs": {name: str(kind) for name, kind in planned.program.inputs.items()},
                "outputs": {name: str(kind) for name, kind in planned.program.outputs.items()},
                "kernels": kinds,
                "multiplies": planned.program.multiplies,
                "arena_bytes": planned.memory.bytes,
                "scratch_bytes": tables.scratch_bytes(planned),
                "weights_bytes": end - begin,
            }
        )
    return described
