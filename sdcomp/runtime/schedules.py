"""Noise levels: which sigmas a sampler visits, and how a sigma corresponds to a training timestep.

Sigma is the standard deviation of the noise in latents that are not scaled down (Karras et al. 2022):
sigma^2 = (1 - alpha_bar) / alpha_bar.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from sdcomp.errors import UsageError

KARRAS_RHO = 7.0


@dataclass(frozen=True)
class NoiseSchedule:
    """The noise levels that a model was trained on.

    `log_sigmas` is float64 [timesteps], ascending: the logarithm of sigma at each whole timestep. Between two
    timesteps log sigma is linear in the timestep (k-diffusion's `DiscreteSchedule`, without quantisation).
    """

    log_sigmas: NDArray[np.float64]

    @classmethod
    def scaled_linear(cls, start: float, end: float, timesteps: int) -> "NoiseSchedule":
        """Latent diffusion's schedule (Rombach et al. 2022): sqrt(beta) goes linearly from start to end."""
        betas = np.linspace(start**0.5, end**0.5, timesteps, dtype=np.float64) ** 2
        alpha_bars = np.cumprod(1.0 - betas)
        return cls(0.5 * np.log((1.0 - alpha_bars) / alpha_bars))

    @property
    def timesteps(self) -> int:
        """How many timesteps the model was trained on."""
        return len(self.log_sigmas)

    @property
    def sigma_min(self) -> float:
        """Sigma at timestep 0."""
        return float(np.exp(self.log_sigmas[0]))

    @property
    def sigma_max(self) -> float:
        """Sigma at the last timestep."""
        return float(np.exp(self.log_sigmas[-1]))

    def sigma_to_timestep(self, sigma: float) -> float:
        """The fractional timestep of a sigma > 0; sigmas beyond the ends get the timestep of that end."""
        return float(np.interp(np.log(sigma), self.log_sigmas, np.arange(self.timesteps)))

    def timestep_to_sigma(self, timestep: NDArray[np.float64]) -> NDArray[np.float64]:
        """The sigma of each timestep, which may be fractional: any shape, float64."""
        log_sigma = np.interp(timestep, np.arange(self.timesteps), self.log_sigmas)
        sigma: NDArray[np.float64] = np.exp(log_sigma)
        return sigma


@cache
def stable_diffusion() -> NoiseSchedule:
    """The schedule of Stable Diffusion 1, 2 and XL: beta from 0.00085 to 0.012 over 1000 timesteps."""
    return NoiseSchedule.scaled_linear(0.00085, 0.012, 1000)


@dataclass(frozen=True)
class Schedule:
    """A way to choose sigmas.

    `label` is A1111's name; `positive_sigmas(noise, steps)` is float64 [steps], descending.
    """

    label: str
    positive_sigmas: Callable[[NoiseSchedule, int], NDArray[np.float64]]


def _discrete(noise: NoiseSchedule, steps: int) -> NDArray[np.float64]:
    """Evenly spaced timesteps from the last to 0 (k-diffusion's `DiscreteSchedule.get_sigmas`)."""
    return noise.timestep_to_sigma(np.linspace(noise.timesteps - 1, 0, steps))


def _karras(noise: NoiseSchedule, steps: int) -> NDArray[np.float64]:
    """Evenly spaced in sigma^(1/rho), rho = 7, between the model's ends (Karras et al. 2022, equation 5)."""
    high, low = noise.sigma_max ** (1 / KARRAS_RHO), noise.sigma_min ** (1 / KARRAS_RHO)
    ramp: NDArray[np.float64] = np.linspace(high, low, steps) ** KARRAS_RHO
    return ramp


SCHEDULES = {
    "discrete": Schedule("Automatic", _discrete),
    "karras": Schedule("Karras", _karras),
}


def schedule_named(name: str) -> Schedule:
    """Raises UsageError with the known names if there is no such schedule."""
    if name not in SCHEDULES:
        raise UsageError(f"unknown schedule {name!r}; the schedules are {', '.join(SCHEDULES)}")
    return SCHEDULES[name]


def sigmas(name: str, steps: int, noise: NoiseSchedule | None = None) -> NDArray[np.float64]:
    """The sigmas of a run: float64 [steps + 1], descending, the last one 0.

    `noise` is the model's schedule, Stable Diffusion's if None. Raises UsageError: unknown name, no steps.
    """
    schedule = schedule_named(name)
    if steps < 1:
        raise UsageError(f"{steps} steps are too few; use 1 or more")
    return np.append(schedule.positive_sigmas(noise or stable_diffusion(), steps), 0.0)
