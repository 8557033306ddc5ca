"""Samplers: from noise to clean latents along a list of sigmas.

A sampler is a generator of latents, one per step, over a denoiser D(x, sigma); formulas as in k-diffusion's
sampling.py. It computes in the dtype of the latents.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from sdcomp.errors import ExecutionError, UsageError

Latents = NDArray[np.float32]
Denoise = Callable[[Latents, float], Latents]
Noise = Callable[[], Latents]
Steps = Callable[[Denoise, Latents, list[float], Noise], Iterator[Latents]]


@dataclass(frozen=True)
class Sampler:
    """`label` is A1111's name; `steps(denoise, latents, sigmas, noise)` yields latents after each step."""

    label: str
    steps: Steps


def _euler(denoise: Denoise, latents: Latents, sigmas: list[float], noise: Noise) -> Iterator[Latents]:
    """Euler's method on dx/dsigma = (x - D) / sigma (Karras et al. 2022, algorithm 1). Draws no noise."""
    for sigma, next_sigma in pairwise(sigmas):
        latents = _toward(latents, denoise(latents, sigma), next_sigma / sigma)
        yield latents


def _euler_ancestral(
    denoise: Denoise, latents: Latents, sigmas: list[float], noise: Noise
) -> Iterator[Latents]:
    """Euler's method that steps below the next sigma and adds fresh noise up to it (eta = 1)."""
    for sigma, next_sigma in pairwise(sigmas):
        down, up = ancestral_split(sigma, next_sigma)
        latents = _toward(latents, denoise(latents, sigma), down / sigma)
        if up > 0.0:
            latents = latents + noise() * up
        yield latents


def ancestral_split(sigma: float, next_sigma: float) -> tuple[float, float]:
    """(down, up) with down^2 + up^2 = next_sigma^2: go to `down`, then add noise times `up` (eta = 1)."""
    up = min(next_sigma, next_sigma * max(sigma * sigma - next_sigma * next_sigma, 0.0) ** 0.5 / sigma)
    return max(next_sigma * next_sigma - up * up, 0.0) ** 0.5, up


def _toward(latents: Latents, denoised: Latents, ratio: float) -> Latents:
    """Euler's step to ratio * sigma: x + (x - D) / sigma * (ratio sigma - sigma). Exactly D at ratio 0."""
    return denoised + (latents - denoised) * ratio


SAMPLERS = {
    "euler": Sampler("Euler", _euler),
    "euler_a": Sampler("Euler a", _euler_ancestral),
}


def sampler_named(name: str) -> Sampler:
    """Raises UsageError with the known names if there is no such sampler."""
    if name not in SAMPLERS:
        raise UsageError(f"unknown sampler {name!r}; the samplers are {', '.join(SAMPLERS)}")
    return SAMPLERS[name]


def sample(
    name: str,
    denoise: Denoise,
    latents: Latents,
    sigmas: NDArray[np.float64],
    noise: Noise,
    callback: Callable[[int, int, float], None] | None = None,
) -> Latents:
    """Clean latents, of the shape and dtype of `latents`, which hold noise of standard deviation sigmas[0].

    `sigmas` is [steps + 1], descending, the last one 0. `noise()` gives fresh unit noise of their shape,
    from the generator that made the initial noise, so that step noises are its calls 1, 2, and so on.
    `callback(index, steps, sigma)` is called after step `index` (from 0), which started at `sigma`; what it
    raises ends the run.
    Raises UsageError for an unknown name, ExecutionError if a step gives numbers that are not finite.
    """
    levels = [float(sigma) for sigma in sigmas]
    steps = sampler_named(name).steps(denoise, latents, levels, noise)
    for index, latents in enumerate(steps):
        if not np.isfinite(latents).all():
            raise ExecutionError(
                f"step {index + 1} of {len(levels) - 1} gave numbers that are not finite; "
                "check the checkpoint's weights and lower the adapters' strengths"
            )
        if callback is not None:
            callback(index, len(levels) - 1, levels[index])
    return latents
