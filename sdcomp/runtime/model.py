"""An opened artifact as networks over numpy arrays: NCHW, f32, whatever the inside uses."""

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sdcomp.errors import ArtifactError, ExecutionError, UsageError
from sdcomp.frontend.tokenizer import Tokenizer, Tokens
from sdcomp.runtime.context import Context, TracedRun
from sdcomp.runtime.library import Library
from sdcomp.runtime.strengths import STRENGTHS, Strengths, strength_pairs, strength_vector

if TYPE_CHECKING:
    from typing_extensions import Self

Floats = NDArray[np.float32]


class Model:
    """An artifact's networks. May be used from several threads, several may be open at once; a context
    manager.

    `manifest` is what the compiler wrote about it; `sizes` are the (width, height) in pixels that it was
    built for. Latents are those of the sampler, scaled to about unit variance: the decoder divides by the
    scaling factor itself. `adapters` of a method are strengths of live adapters by name, for this call.
    """

    def __init__(self, library: Library) -> None:
        self.library = library
        self.manifest: dict[str, Any] = library.manifest
        self.sizes: list[tuple[int, int]] = [(width, height) for width, height in self.manifest["sizes"]]
        asset = self.manifest["assets"]["tokenizer"]
        self._tokenizer = Tokenizer.from_bytes(library.asset(asset["offset"], asset["bytes"]))
        self._lock = threading.Lock()
        self._idle: list[Context] = []
        self.trace: list[TracedRun] | None = None
        """Set to a list to receive what each run of a program did."""

    @classmethod
    def open(cls, path: str | os.PathLike[str], threads: int | None = None, verify: bool = True) -> "Self":
        """Opens an artifact; `threads` defaults to what it was built with, or to all CPUs.

        Raises ArtifactError for a file that is damaged, no artifact, no model, or for another CPU.
        """
        library = Library.open(path, threads, verify)
        try:
            wanted = int(library.manifest.get("threads", 0))
            if threads is None and wanted and wanted != library.threads:
                library.close()
                library = Library.open(path, wanted, verify=False)
            return cls(library)
        except KeyError as error:
            library.close()
            raise ArtifactError(f"{path}: its manifest has no {error}; build it again") from None
        except BaseException:
            library.close()
            raise

    # Networks

    def tokenize(self, prompt: str) -> Tokens:
        """Token ids i32[77], and how many tokens did not fit."""
        return self._tokenizer.encode(prompt)

    def encode_text(self, prompts: str | Sequence[str], adapters: Strengths | None = None) -> Floats:
        """The text encoder's hidden states f32[prompts, 77, width]. Tokens beyond 75 are dropped."""
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        if not prompts:
            raise ExecutionError("prompts: expected at least one, found none")
        with self.context(adapters) as context:
            return np.concatenate([self.hidden_states(context, prompt) for prompt in prompts])

    def predict_noise(
        self,
        latents: Floats,
        timestep: float | Sequence[float] | Floats,
        context: Floats,
        adapters: Strengths | None = None,
    ) -> Floats:
        """The UNet: latents f32[N,4,h,w] at fractional timesteps, given text f32[N,77,width], to the noise
        f32[N,4,h,w].
        """
        latents, text = _rows("latents", latents, 4), _rows("context", context, 3)
        timesteps = np.asarray(timestep, np.float32)
        if timesteps.shape not in ((), (1,), (len(latents),)):
            raise ExecutionError(
                f"timestep: expected 1 or {len(latents)}, one per latent, found shape {list(timesteps.shape)}"
            )
        timesteps = np.broadcast_to(timesteps, (len(latents),))
        if len(text) != len(latents):
            raise ExecutionError(
                f"predict_noise: {len(latents)} latents need as many contexts, found {len(text)}"
            )
        size = self._latent_size(latents)
        with self.context(adapters) as memory:
            rows = []
            for row in range(len(latents)):
                self.set_prompt(memory, size, text[row : row + 1])
                self.set_timestep(memory, size, float(timesteps[row]), 1)
                rows.append(self.noise(memory, size, latents[row : row + 1], 1))
        return np.concatenate(rows)

    def decode(self, latents: Floats) -> Floats:
        """The VAE's decoder: sampler latents f32[N,4,h,w] to images f32[N,3,H,W], about -1 to 1."""
        latents = _rows("latents", latents, 4)
        size = self._latent_size(latents)
        with self.context() as context:
            return np.concatenate(
                [self.image(context, size, latents[row : row + 1]) for row in range(len(latents))]
            )

    def encode(self, images: Floats) -> Floats:
        """The VAE's encoder: images f32[N,3,H,W] from -1 to 1 to the mean latents f32[N,4,h,w] that a
        sampler may start from.
        """
        images = _rows("images", images, 4)
        size = self.check_size((images.shape[3], images.shape[2]))
        if not self.manifest["has_encoder"]:
            raise ExecutionError("encode: the checkpoint has no VAE encoder, so this artifact has none")
        program = f"vae_encoder@{_text(size)}"
        with self.context() as context:
            rows = [
                context.run(program, {"image": images[i : i + 1]}, trace=self.trace)
                for i in range(len(images))
            ]
        mean: Floats = np.concatenate([row["mean"] for row in rows])
        mean *= np.float32(self.manifest["scaling_factor"])
        return mean

    # Steps of a generation, in a context of the caller's

    def token_ids(self, prompt: str) -> NDArray[np.int32]:
        """i32[77] of one prompt. Raises ExecutionError for a token that the text encoder does not know."""
        ids = self.tokenize(prompt).ids
        limit = int(self.manifest["vocabulary"])
        if int(ids.max()) >= limit:
            raise ExecutionError(
                f"the text encoder knows {limit} tokens, but the prompt has token {int(ids.max())}"
            )
        return ids

    def hidden_states(self, context: Context, prompt: str) -> Floats:
        """f32[1,77,width] of one prompt."""
        tokens = self.token_ids(prompt)[None]
        return context.run("text", {"tokens": tokens}, trace=self.trace)["hidden_states"]

    def set_prompt(self, context: Context, size: tuple[int, int], text: Floats) -> None:
        """Keys and values of every cross-attention, once per prompt; text f32[rows,77,width]."""
        context.run(f"unet.prompt@{_text(size)}x{len(text)}", {"context": text}, trace=self.trace)

    def set_timestep(self, context: Context, size: tuple[int, int], timestep: float, rows: int) -> None:
        """The time embedding of every residual block, once per step."""
        program = f"unet.step@{_text(size)}x{rows}"
        context.run(program, {"timestep": np.array([timestep], np.float32)}, trace=self.trace)

    def noise(self, context: Context, size: tuple[int, int], latents: Floats, rows: int) -> Floats:
        """The predicted noise f32[rows,4,h,w] for latents f32[1,4,h,w], one row per text row of
        `set_prompt`.
        """
        return context.run(f"unet@{_text(size)}x{rows}", {"latents": latents}, trace=self.trace)["noise"]

    def image(self, context: Context, size: tuple[int, int], latents: Floats) -> Floats:
        """The decoded image f32[1,3,H,W] of sampler latents f32[1,4,h,w]."""
        raw = latents / np.float32(self.manifest["scaling_factor"])
        return context.run(f"vae_decoder@{_text(size)}", {"latents": raw}, trace=self.trace)["image"]

    # Memory

    @contextmanager
    def context(self, adapters: Strengths | None = None) -> Iterator[Context]:
        """Memory for one run at a time, reused from call to call. Raises UsageError for unknown adapters."""
        strengths = strength_vector(strength_pairs(self.manifest, adapters or {}))
        with self._lock:
            context = self._idle.pop() if self._idle else self.library.context()
        context.defaults = {STRENGTHS: strengths}
        try:
            yield context
        finally:
            with self._lock:
                self._idle.append(context)

    def release(self, network: str) -> None:
        """Gives back the memory of a network's weights (`text`, `unet`, `vae_decoder`, `vae_encoder`) until
        it next runs.
        """
        for program in self.library.programs:
            if program.split("@")[0].split(".")[0] == network:
                self.library.release(program)

    def check_size(self, size: tuple[int, int] | None) -> tuple[int, int]:
        """The size itself, or the artifact's first if None.

        Raises UsageError for one that it was not built for.
        """
        if size is None:
            return self.sizes[0]
        if size not in self.sizes:
            known = ", ".join(_text(s) for s in self.sizes)
            raise UsageError(
                f"size {_text(size)}: this artifact was built for {known}; "
                f"build it with --size {_text(size)} too"
            )
        return size

    def _latent_size(self, latents: Floats) -> tuple[int, int]:
        scale = int(self.manifest["downscale"])
        return self.check_size((latents.shape[3] * scale, latents.shape[2] * scale))

    def close(self) -> None:
        """Gives all memory back. May be called again."""
        self.library.close()

    def __enter__(self) -> "Self":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _rows(name: str, array: Floats, rank: int) -> Floats:
    array = np.asarray(array, np.float32)
    if array.ndim != rank or not len(array):
        raise ExecutionError(
            f"{name}: expected {rank} axes and at least one row, found shape {list(array.shape)}"
        )
    return array


def _text(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
