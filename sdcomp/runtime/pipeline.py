"""From a prompt to pictures: text encoder, sampling with classifier-free guidance, decoder."""

import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sdcomp.errors import UsageError
from sdcomp.runtime.context import Context
from sdcomp.runtime.denoiser import EpsDenoiser, guided
from sdcomp.runtime.images import generation_parameters, to_images
from sdcomp.runtime.model import Floats, Model
from sdcomp.runtime.rng import SEEDS, BatchNoise
from sdcomp.runtime.samplers import sample, sampler_named
from sdcomp.runtime.schedules import schedule_named, sigmas, stable_diffusion
from sdcomp.runtime.strengths import Strengths, strength_pairs

if TYPE_CHECKING:
    from PIL.Image import Image

TEXT, SAMPLING, DECODER = "text encoder", "sampling", "decoder"

Progress = Callable[[str, int, int, float], None]
"""Stage, steps done, steps in all, seconds that the last step took."""


@dataclass(frozen=True)
class GenerateOptions:
    """What to make. `size` is (width, height) in pixels, None for the artifact's first; a negative seed is
    drawn at random.

    Image number b of a batch has seed + b, modulo 2^64. At guidance scale 1 the negative prompt has no effect
    and costs nothing.
    """

    prompt: str
    negative: str = ""
    steps: int = 20
    cfg_scale: float = 7.0
    seed: int = 42
    sampler: str = "euler_a"
    schedule: str = "discrete"
    size: tuple[int, int] | None = None
    batch: int = 1
    adapters: Strengths = field(default_factory=dict)
    """Strengths of live adapters by name."""


@dataclass(frozen=True)
class Generated:
    """Pictures, the A1111 text that describes each, seconds per stage, and what the user should know."""

    images: "list[Image]"
    parameters: list[str]
    stages: dict[str, float]
    warnings: list[str]


class Pipeline(Model):
    """An opened artifact that makes pictures: what `sdcomp.load` returns."""

    def txt2img(self, prompt: str, negative_prompt: str = "", **options: Any) -> "list[Image]":
        """Pictures of a prompt; `options` are those of `GenerateOptions`."""
        return self.generate(GenerateOptions(prompt, negative_prompt, **options)).images

    def generate(self, options: GenerateOptions, progress: Progress | None = None) -> Generated:
        """Makes `options.batch` pictures. Weights of a network that is done are given back as it goes.

        Raises UsageError for options that cannot be honoured, before any work.
        """
        run = self._start(options, progress)
        images = to_images(run.pixels())
        return Generated(images, self._describe(options, run.size, run.seed), run.stages, run.warnings)

    def pixels(self, options: GenerateOptions, progress: Progress | None = None) -> Floats:
        """The same pictures as the decoder leaves them: f32[batch,3,H,W], about -1 to 1."""
        return self._start(options, progress).pixels()

    def _start(self, options: GenerateOptions, progress: Progress | None) -> "_Run":
        size = self._check(options)
        seed = secrets.randbits(32) if options.seed < 0 else options.seed
        return _Run(self, options, size, seed, progress or _silent)

    def _check(self, options: GenerateOptions) -> tuple[int, int]:
        sampler_named(options.sampler)
        schedule_named(options.schedule)
        for name, value in (("steps", options.steps), ("batch", options.batch)):
            if value < 1:
                raise UsageError(f"{name} {value}: expected 1 or more")
        if not np.isfinite(options.cfg_scale):
            raise UsageError(f"cfg scale {options.cfg_scale}: expected a finite number")
        if options.seed >= SEEDS:
            raise UsageError(f"seed {options.seed}: expected less than 2^64")
        strength_pairs(self.manifest, options.adapters)
        return self.check_size(options.size)

    def _describe(self, options: GenerateOptions, size: tuple[int, int], seed: int) -> list[str]:
        manifest = self.manifest
        live = strength_pairs(manifest, options.adapters)
        adapters = [
            (a["name"], live[a["name"]][0] if a["live"] else float(a["strength"]))
            for a in manifest["adapters"]
        ]
        return [
            generation_parameters(
                prompt=options.prompt,
                negative=options.negative,
                steps=options.steps,
                sampler=options.sampler,
                schedule=options.schedule,
                cfg_scale=options.cfg_scale,
                seed=(seed + row) % SEEDS,
                width=size[0],
                height=size[1],
                model=Path(manifest["checkpoint"]["file"]).stem,
                adapters=adapters,
                version=manifest["sdcomp"],
            )
            for row in range(options.batch)
        ]


@dataclass
class _Run:
    """One generation: what its stages share."""

    model: Model
    options: GenerateOptions
    size: tuple[int, int]
    seed: int
    progress: Progress
    stages: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    @property
    def is_guided(self) -> bool:
        return self.options.cfg_scale != 1.0

    def pixels(self) -> Floats:
        """All stages: f32[batch,3,H,W]."""
        with self.model.context(self.options.adapters) as context:
            text = self.encode(context)
            latents = self.sample(context, text)
            return self.decode(context, latents)

    def encode(self, context: Context) -> Floats:
        """Hidden states: of the negative prompt first if there is guidance, then of the prompt."""
        prompts = [self.options.negative, self.options.prompt] if self.is_guided else [self.options.prompt]
        self.warnings += [
            f"the last {dropped} tokens of this prompt do not fit into {self.model.manifest['positions']} "
            f"and were dropped: {prompt[:60]!r}"
            for prompt in prompts
            if (dropped := self.model.tokenize(prompt).truncated)
        ]
        with self._stage(TEXT) as step:
            rows = []
            for number, prompt in enumerate(prompts):
                rows.append(self.model.hidden_states(context, prompt))
                step(number + 1, len(prompts))
        self.model.release("text")
        return np.concatenate(rows)

    def sample(self, context: Context, text: Floats) -> Floats:
        """Latents f32[batch,4,h,w] of clean pictures."""
        options, scale = self.options, int(self.model.manifest["downscale"])
        width, height = self.size
        shape = (options.batch, int(self.model.manifest["latent_channels"]), height // scale, width // scale)
        noise = BatchNoise(self.seed, shape)
        schedule = stable_diffusion()
        levels = sigmas(options.schedule, options.steps, schedule)
        start = noise() * np.float32(levels[0])
        with self._stage(SAMPLING) as step:
            self.model.set_prompt(context, self.size, text)
            denoise = EpsDenoiser(
                lambda latents, timestep: self._predict(context, latents, timestep), schedule
            )

            def finished(index: int, steps: int, sigma: float) -> None:
                del sigma
                step(index + 1, steps)

            latents = sample(options.sampler, denoise, start, levels, noise, finished)
        self.model.release("unet")
        return latents.astype(np.float32, copy=False)

    def _predict(self, context: Context, latents: Floats, timestep: float) -> Floats:
        """The (guided) noise of every latent: both guidance rows in one evaluation."""
        rows = 2 if self.is_guided else 1
        self.model.set_timestep(context, self.size, timestep, rows)
        latents = latents.astype(np.float32, copy=False)
        predictions = []
        for row in range(len(latents)):
            noise = self.model.noise(context, self.size, latents[row : row + 1], rows)
            predictions.append(
                guided(noise[:1], noise[1:], self.options.cfg_scale) if self.is_guided else noise
            )
        return np.concatenate(predictions)

    def decode(self, context: Context, latents: Floats) -> Floats:
        with self._stage(DECODER) as step:
            images = []
            for row in range(len(latents)):
                images.append(self.model.image(context, self.size, latents[row : row + 1]))
                step(row + 1, len(latents))
        self.model.release("vae_decoder")
        context.trim()
        return np.concatenate(images)

    @contextmanager
    def _stage(self, name: str) -> Iterator[Callable[[int, int], None]]:
        """Times a stage; the function it gives reports a step."""
        begin = last = time.perf_counter()

        def step(done: int, total: int) -> None:
            nonlocal last
            now = time.perf_counter()
            self.progress(name, done, total, now - last)
            last = now

        yield step
        self.stages[name] = time.perf_counter() - begin


def _silent(stage: str, done: int, total: int, seconds: float) -> None:
    del stage, done, total, seconds
