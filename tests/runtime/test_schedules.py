"""Sigmas against diffusers' schedulers and a transcription of k-diffusion's formulas in torch."""

import numpy as np
import pytest
import torch
from diffusers import EulerDiscreteScheduler

from sdcomp.errors import UsageError
from sdcomp.runtime.schedules import SCHEDULES, sigmas, stable_diffusion


def _relative_error(found, expected):
    return np.linalg.norm(np.asarray(found) - np.asarray(expected)) / np.linalg.norm(expected)


def _diffusers(steps, **options):
    scheduler = EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        timestep_spacing="linspace",
        **options,
    )
    scheduler.set_timesteps(steps)
    return scheduler


def _k_diffusion_log_sigmas():
    """CompVisDenoiser's table: latent diffusion's betas, in float64."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    alpha_bars = torch.cumprod(1 - betas, dim=0)
    return ((1 - alpha_bars) / alpha_bars).sqrt().log()


def _k_diffusion_sigma_to_t(sigma):
    """DiscreteSchedule.sigma_to_t with quantize=False."""
    table = _k_diffusion_log_sigmas()
    log_sigma = torch.tensor(sigma, dtype=torch.float64).log()
    distances = log_sigma - table[:, None]
    low = distances.ge(0).cumsum(dim=0).argmax(dim=0).clamp(max=table.shape[0] - 2)
    weight = ((table[low] - log_sigma) / (table[low] - table[low + 1])).clamp(0, 1)
    return ((1 - weight) * low + weight * (low + 1)).item()


def test_ends_of_the_training_schedule():
    noise = stable_diffusion()
    assert noise.timesteps == 1000
    assert noise.sigma_min == pytest.approx(0.029167158, rel=1e-7)
    assert noise.sigma_max == pytest.approx(14.6146412, rel=1e-7)


def test_training_schedule_is_that_of_diffusers():
    alpha_bars = _diffusers(10).alphas_cumprod.numpy().astype(np.float64)
    expected = np.sqrt((1 - alpha_bars) / alpha_bars)
    assert _relative_error(np.exp(stable_diffusion().log_sigmas), expected) < 1e-5


@pytest.mark.parametrize("steps", [2, 4, 10, 28, 38, 112])
def test_discrete_equals_diffusers_where_timesteps_are_whole(steps):
    scheduler = _diffusers(steps)
    assert _relative_error(sigmas("discrete", steps), scheduler.sigmas.numpy()) < 1e-5
    timesteps = [stable_diffusion().sigma_to_timestep(sigma) for sigma in sigmas("discrete", steps)[:-1]]
    np.testing.assert_allclose(timesteps, scheduler.timesteps.numpy(), atol=1e-4)


@pytest.mark.parametrize("steps", [1, 2, 7, 20, 50])
def test_discrete_equals_k_diffusion(steps):
    table, t = _k_diffusion_log_sigmas(), torch.linspace(999, 0, steps, dtype=torch.float64)
    low, high, weight = t.floor().long(), t.ceil().long(), t.frac()
    expected = ((1 - weight) * table[low] + weight * table[high]).exp().numpy()
    assert _relative_error(sigmas("discrete", steps), np.append(expected, 0)) < 1e-12


@pytest.mark.parametrize("steps", [2, 5, 20, 33])
def test_karras_equals_diffusers(steps):
    expected = _diffusers(steps, use_karras_sigmas=True).sigmas.numpy()
    assert _relative_error(sigmas("karras", steps), expected) < 1e-5


def test_twenty_steps_as_other_tools_print_them():
    discrete = [14.6146, 10.7468, 8.0815, 6.2049, 4.8557, 3.8654, 3.1238, 2.5572, 2.1157, 1.7648]
    discrete += [1.4806, 1.2458, 1.0481, 0.8784, 0.7297, 0.5964, 0.4736, 0.3555, 0.2322, 0.0292, 0]
    karras = [14.6146, 11.7254, 9.3402, 7.3836, 5.7894, 4.4998, 3.4647, 2.6408, 1.9909, 1.4832]
    karras += [1.0908, 0.7909, 0.5647, 0.3964, 0.273, 0.1842, 0.1213, 0.0779, 0.0485, 0.0292, 0]
    np.testing.assert_allclose(sigmas("discrete", 20), discrete, atol=5.1e-5)
    np.testing.assert_allclose(sigmas("karras", 20), karras, atol=5.1e-5)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("steps", [1, 2, 3, 150])
def test_every_schedule_descends_to_zero(name, steps):
    levels = sigmas(name, steps)
    assert levels.dtype == np.float64
    assert levels.shape == (steps + 1,)
    assert levels[0] == pytest.approx(stable_diffusion().sigma_max)
    assert levels[-1] == 0
    assert (np.diff(levels) < 0).all()


@pytest.mark.parametrize("sigma", [0.01, 0.0292, 0.5, 1.0, 3.21, 14.6, 20.0])
def test_sigma_to_timestep_equals_k_diffusion(sigma):
    assert stable_diffusion().sigma_to_timestep(sigma) == pytest.approx(
        _k_diffusion_sigma_to_t(sigma), abs=1e-9
    )


def test_timestep_and_sigma_are_inverse():
    timesteps = np.linspace(0, 999, 57)
    levels = stable_diffusion().timestep_to_sigma(timesteps)
    found = [stable_diffusion().sigma_to_timestep(float(sigma)) for sigma in levels]
    np.testing.assert_allclose(found, timesteps, atol=1e-9)


def test_unknown_names_and_too_few_steps_are_refused():
    with pytest.raises(UsageError, match="unknown schedule 'linear'; the schedules are discrete, karras"):
        sigmas("linear", 20)
    with pytest.raises(UsageError, match="0 steps are too few"):
        sigmas("karras", 0)
