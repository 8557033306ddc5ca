"""Small artifacts that tests share: each is built once per session, and equal kernels are compiled once.

The compiler is imported by the fixtures that need it, so tests of its parts run without the rest of it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest

if TYPE_CHECKING:
    from sdcomp.codegen.kernels.base import Kernel
    from sdcomp.codegen.targets import Target
    from sdcomp.compiler import BuildOptions
    from sdcomp.frontend.config import ModelConfig

Options = Mapping[str, Any]


@dataclass(frozen=True)
class Networks:
    """What to write a checkpoint of: fields of `SMALL`'s parts to replace, and the file's metadata."""

    unet: Options = field(default_factory=dict)
    vae: Options = field(default_factory=dict)
    text: Options = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=lambda: {"format": "pt"})


TINY = Networks(
    unet={"channel_mult": (1,), "res_blocks": 1, "transformer_depth": (1,)},
    vae={"channel_mult": (1,), "decoder_res_blocks": 2, "has_encoder": False},
    text={"layers": 1},
)
"""The fewest kernels that still make a picture; one latent pixel per image pixel."""

TINY_SIZE = (32, 32)


@dataclass(frozen=True)
class Built:
    """A checkpoint, the artifact made of it, and what the build returned."""

    path: Path
    checkpoint: Path
    config: "ModelConfig"
    manifest: Mapping[str, Any]


class KernelCache:
    """Compiles only what was not compiled before: LLVM takes most of a build; equal text gives equal code."""

    def __init__(self) -> None:
        from sdcomp.codegen.compile import emit_object
        from sdcomp.codegen.module import emit_objects

        self._objects: dict[tuple[str, Target], bytes] = {}
        self._sets: dict[tuple[tuple[tuple[Kernel, str], ...], Target], list[bytes]] = {}
        self._emit_object = emit_object
        self._emit_objects = emit_objects

    def emit_object(self, llvm_module: Any, target: "Target") -> bytes:
        key = (str(llvm_module), target)
        if key not in self._objects:
            self._objects[key] = self._emit_object(llvm_module, target)
        return self._objects[key]

    def emit_objects(self, symbols: "dict[Kernel, str]", target: "Target") -> list[bytes]:
        key = (tuple(symbols.items()), target)
        if key not in self._sets:
            self._sets[key] = self._emit_objects(symbols, target)
        return self._sets[key]


@pytest.fixture(scope="session")
def compile_once() -> Iterator[None]:
    """From its first use on, builds in this process share compiled kernels."""
    from sdcomp.codegen import artifact, module

    cache = KernelCache()
    with (
        mock.patch.object(module, "emit_object", cache.emit_object),
        mock.patch.object(artifact, "emit_objects", cache.emit_objects),
    ):
        yield


@dataclass(frozen=True)
class Builder:
    """Writes checkpoints and builds artifacts of them in a folder."""

    folder: Path

    def checkpoint(self, name: str, networks: Networks, dtype: str = "f16") -> "tuple[Path, ModelConfig]":
        from tests.checkpoints import write_checkpoint

        path = self.folder / f"{name}-{dtype}.safetensors"
        return path, write_checkpoint(
            path,
            unet=networks.unet,
            vae=networks.vae,
            text=networks.text,
            dtype=dtype,
            metadata=networks.metadata,
        )

    def build(self, name: str, networks: Networks, options: "BuildOptions", dtype: str = "f16") -> Built:
        from sdcomp.compiler import build

        checkpoint, config = self.checkpoint(name, networks, dtype)
        path = checkpoint.with_suffix(".so")
        return Built(path, checkpoint, config, build(checkpoint, path, options))


@pytest.fixture(scope="session")
def builder(tmp_path_factory: pytest.TempPathFactory, compile_once: None) -> Builder:
    return Builder(tmp_path_factory.mktemp("artifacts"))


@pytest.fixture(scope="session")
def small_built(builder: Builder) -> Built:
    """`TINY` as float16, at one size of 32x32 pixels, with its checkpoint."""
    from sdcomp.compiler import BuildOptions

    return builder.build("small", TINY, BuildOptions(sizes=[TINY_SIZE]))


@pytest.fixture(scope="session")
def small_artifact(small_built: Built) -> Path:
    """The path of the smallest artifact. Only to be read: tests that change it copy it first."""
    return small_built.path
