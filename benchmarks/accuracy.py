"""Relative errors of every program against torch, diffusers and transformers on the same weights."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import oracle
from benchmarks.cases import Array
from benchmarks.lokr import Adaptation, read_lokr
from benchmarks.measure import relative_difference
from sdcomp.errors import UsageError
from sdcomp.frontend.checkpoint import Checkpoint
from sdcomp.frontend.config import ModelConfig
from sdcomp.frontend.family import detect, expected_tensors
from sdcomp.runtime.context import Context
from sdcomp.runtime.library import Library

EXACT_BOUND = 1e-4
"""For weights that the artifact holds as they are."""

ROUNDED_BOUND = 2e-3
"""For weights that were rounded to f16 when the artifact was built."""

_SMALL_MODEL = 100_000_000
"""Parameters up to which the reference computes in f64."""

_TIMESTEP = 500.0

Network = Callable[[ModelConfig, oracle.Reader, torch.dtype], torch.nn.Module]


@dataclass(frozen=True)
class Accuracy:
    """The error of one output: norm of the difference over norm of the reference; and its bound."""

    program: str
    output: str
    reference: str
    error: float
    bound: float

    def __str__(self) -> str:
        verdict = "" if self.error <= self.bound else "  TOO LARGE"
        against = f"against {self.reference}, at most {self.bound:.0e}"
        return f"{self.program:24} {self.output:14} {self.error:.2e}  {against}{verdict}"


def check_accuracy(
    checkpoint: Path,
    artifact: Path,
    size: tuple[int, int],
    adapters: Sequence[tuple[Path, float]],
    threads: int,
) -> Iterator[Accuracy]:
    """Errors of the text encoder, the UNet at batch 1 and 2, and the autoencoder.

    `adapters` (file, strength) must be those that the artifact was built with: they are merged into the
    reference's weights. Raises UsageError if they cannot be, SdcompError for files that cannot be opened.
    """
    torch.set_num_threads(threads)
    with Checkpoint.open(checkpoint) as opened, Library.open(artifact, threads) as library:
        config = detect(opened)
        merged = [read_lokr(path, strength, config) for path, strength in adapters]
        _check_adapters(artifact, library.manifest, adapters)
        with library.context() as context:
            check = _Check(opened, config, merged, size, context, _bound(opened, library.manifest))
            yield from check.text()
            yield from check.unet((1, 2))
            yield from check.vae()


class _Check:
    """One comparison after the other, so that only one reference is in memory at a time."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        config: ModelConfig,
        adapters: list[Adaptation],
        size: tuple[int, int],
        context: Context,
        bound: float,
    ) -> None:
        self._checkpoint = checkpoint
        self._config = config
        self._adapters = adapters
        self._pixels = f"{size[0]}x{size[1]}"
        self._latent = size[1] // config.vae.downscale, size[0] // config.vae.downscale
        self._size = size
        self._context = context
        self._bound = bound
        parameters = sum(int(np.prod(shape)) for shape in expected_tensors(config).values())
        self._dtype = torch.float64 if parameters <= _SMALL_MODEL else torch.float32
        self._generator = np.random.default_rng(0)

    def text(self) -> Iterator[Accuracy]:
        config = self._config.text
        shape = (1, config.positions)
        tokens = self._generator.integers(0, config.vocabulary, shape, dtype=np.int32)
        found = self._context.run("text", {"tokens": tokens})
        yield from self._compare("text", found, self._reference(oracle.TextEncoder, [(tokens,)])[0])

    def unet(self, batches: tuple[int, ...]) -> Iterator[Accuracy]:
        unet = self._config.unet
        latents = self._normal(1, unet.in_channels, *self._latent)
        timestep = np.array([_TIMESTEP], np.float32)
        contexts = [
            self._normal(batch, self._config.text.positions, unet.context_channels) for batch in batches
        ]
        expected = self._reference(oracle.UNet, [(latents, timestep, context) for context in contexts])
        for batch, context, reference in zip(batches, contexts, expected, strict=True):
            size = f"{self._pixels}x{batch}"
            self._context.run(f"unet.prompt@{size}", {"context": context})
            self._context.run(f"unet.step@{size}", {"timestep": timestep})
            found = self._context.run(f"unet@{size}", {"latents": latents})
            yield from self._compare(f"unet@{size}", found, reference)

    def vae(self) -> Iterator[Accuracy]:
        vae = self._config.vae
        decoder, encoder = f"vae_decoder@{self._pixels}", f"vae_encoder@{self._pixels}"
        latents = self._normal(1, vae.latent_channels, *self._latent)
        found = self._context.run(decoder, {"latents": latents})
        yield from self._compare(decoder, found, self._reference(oracle.VaeDecoder, [(latents,)])[0])
        if not vae.has_encoder:
            return
        shape = (1, vae.image_channels, self._size[1], self._size[0])
        image = self._generator.uniform(-1, 1, shape).astype(np.float32)
        found = self._context.run(encoder, {"image": image})
        yield from self._compare(encoder, found, self._reference(oracle.VaeEncoder, [(image,)])[0])

    def _reference(self, network: Network, calls: list[tuple[Array, ...]]) -> list[list[Array]]:
        """The outputs of each call, from a model that is gone when this returns."""
        model = network(self._config, self._read, self._dtype)
        with torch.inference_mode():
            return [_arrays(model(*map(self._tensor, call))) for call in calls]

    def _read(self, name: str) -> Array:
        values = self._checkpoint.read(name)
        changes = [change for adapter in self._adapters if (change := adapter.change(name)) is not None]
        for change in changes:
            values = values.astype(np.float64) + change
        return values

    def _tensor(self, array: Array) -> torch.Tensor:
        tensor = torch.from_numpy(array)
        return tensor.to(self._dtype) if tensor.is_floating_point() else tensor

    def _normal(self, *shape: int) -> Array:
        return self._generator.standard_normal(shape, np.float32)

    def _compare(self, program: str, found: dict[str, Array], expected: list[Array]) -> Iterator[Accuracy]:
        reference = str(self._dtype).removeprefix("torch.")
        for (name, output), array in zip(found.items(), expected, strict=True):
            yield Accuracy(program, name, reference, relative_difference(output, array), self._bound)


def _arrays(outputs: torch.Tensor | tuple[torch.Tensor, ...]) -> list[Array]:
    tensors = outputs if isinstance(outputs, tuple) else (outputs,)
    return [tensor.numpy() for tensor in tensors]


def _check_adapters(artifact: Path, manifest: dict[str, Any], adapters: Sequence[tuple[Path, float]]) -> None:
    built = [(entry["file"], float(entry["strength"])) for entry in manifest["adapters"]]
    given = [(path.name, strength) for path, strength in adapters]
    if built != given:
        raise UsageError(
            f"{artifact}: was built with the adapters {built}, --lokr gives {given}; give the same"
        )


def _bound(checkpoint: Checkpoint, manifest: dict[str, Any]) -> float:
    if manifest["weights"] == "f32":
        return EXACT_BOUND
    stored = {info.stored for name, info in checkpoint.tensors.items() if len(info.shape) > 1}
    return EXACT_BOUND if stored == {"F16"} and not manifest["adapters"] else ROUNDED_BOUND
