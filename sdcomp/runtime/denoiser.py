"""From a network that predicts noise to a function that denoises: what samplers call.

Latents are NCHW: those of the clean picture plus noise of standard deviation sigma (Karras et al. 2022).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sdcomp.runtime.schedules import NoiseSchedule

PredictNoise = Callable[[NDArray[np.float32], float], NDArray[np.float32]]


@dataclass(frozen=True)
class EpsDenoiser:
    """A denoiser around a network that predicts the noise itself (eps prediction).

    `predict(latents, timestep)` takes latents scaled to unit variance, float32 [N, C, H, W], and a fractional
    timestep; it returns the predicted noise, of the same shape and of unit variance.
    """

    predict: PredictNoise
    schedule: NoiseSchedule

    def __call__(self, latents: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
        """The clean latents that the network sees at sigma > 0 (k-diffusion's `CompVisDenoiser`)."""
        scaled = latents * float((sigma * sigma + 1.0) ** -0.5)
        noise = self.predict(scaled, self.schedule.sigma_to_timestep(sigma))
        return latents - noise * float(sigma)


def guided(
    unconditional: NDArray[np.float32], conditional: NDArray[np.float32], scale: float
) -> NDArray[np.float32]:
    """Classifier-free guidance (Ho and Salimans 2022): unconditional + scale (conditional - unconditional).

    Scale 1 gives the conditional prediction up to rounding, so the other one then need not be computed.
    """
    return unconditional + float(scale) * (conditional - unconditional)
