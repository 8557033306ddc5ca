"""Samplers against diffusers' schedulers, k-diffusion's formulas, and data with a known flow."""

from itertools import pairwise

import diffusers.schedulers.scheduling_euler_ancestral_discrete as ancestral_module
import numpy as np
import pytest
import torch
from diffusers import EulerAncestralDiscreteScheduler, EulerDiscreteScheduler

from sdcomp.errors import Cancelled, ExecutionError, UsageError
from sdcomp.runtime.denoiser import EpsDenoiser, guided
from sdcomp.runtime.rng import BatchNoise
from sdcomp.runtime.samplers import SAMPLERS, sample
from sdcomp.runtime.schedules import sigmas, stable_diffusion

SHAPE = (2, 4, 3, 5)
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def _relative_error(found, expected):
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


def _predict(latents, timestep):
    """A stand-in for the network: not linear, and different at every timestep and place."""
    place = np.linspace(-1, 1, latents[0].size, dtype=latents.dtype).reshape(latents.shape[1:])
    return np.tanh(latents * 0.9 + place) + np.float32(0.1 * np.sin(timestep / 100))


def _start(levels):
    noise = BatchNoise(11, SHAPE)
    return noise() * np.float32(levels[0]), noise


def _with_diffusers(scheduler, levels, latents):
    """The same run by diffusers' step function: it scales the input, predicts, and steps."""
    scheduler.sigmas = torch.tensor(levels, dtype=torch.float64)
    scheduler.timesteps = torch.tensor([stable_diffusion().sigma_to_timestep(sigma) for sigma in levels[:-1]])
    scheduler.num_inference_steps = len(levels) - 1
    latents = torch.from_numpy(latents)
    for timestep in scheduler.timesteps:
        scaled = scheduler.scale_model_input(latents, timestep)
        noise = torch.from_numpy(_predict(scaled.numpy(), float(timestep)))
        latents = scheduler.step(noise, timestep, latents).prev_sample
    return latents.numpy()


@pytest.mark.parametrize("schedule", ["discrete", "karras"])
def test_euler_equals_diffusers(schedule):
    levels = sigmas(schedule, 9)
    latents, noise = _start(levels)
    found = sample("euler", EpsDenoiser(_predict, stable_diffusion()), latents, levels, noise)
    assert found.dtype == np.float32
    assert _relative_error(found, _with_diffusers(EulerDiscreteScheduler(**BETAS), levels, latents)) < 1e-5


@pytest.mark.parametrize("schedule", ["discrete", "karras"])
def test_euler_ancestral_equals_diffusers_fed_the_same_noise(schedule, monkeypatch):
    levels = sigmas(schedule, 9)
    latents, noise = _start(levels)
    found = sample("euler_a", EpsDenoiser(_predict, stable_diffusion()), latents, levels, noise)

    same_noise = BatchNoise(11, SHAPE)
    same_noise()
    monkeypatch.setattr(
        ancestral_module, "randn_tensor", lambda *_args, **_options: torch.from_numpy(same_noise())
    )
    expected = _with_diffusers(EulerAncestralDiscreteScheduler(**BETAS), levels, latents)
    assert _relative_error(found, expected) < 1e-5


def test_euler_ancestral_equals_k_diffusion_in_float64():
    levels = sigmas("karras", 7)
    denoise = EpsDenoiser(_predict, stable_diffusion())
    rows = np.random.default_rng(3).standard_normal((8, *SHAPE))
    expected = rows[0] * levels[0]
    for index, (sigma, after) in enumerate(pairwise(levels)):
        up = min(after, (after**2 * (sigma**2 - after**2) / sigma**2) ** 0.5)
        down = (after**2 - up**2) ** 0.5
        slope = (expected - denoise(expected, sigma)) / sigma
        expected = expected + slope * (down - sigma)
        expected = expected + rows[index + 1] * up if after > 0 else expected
    draws = iter(rows[1:])
    found = sample("euler_a", denoise, rows[0] * levels[0], levels, lambda: next(draws))
    assert _relative_error(found, expected) < 1e-12
    assert len(list(draws)) == 1, "the last step adds no noise"


def _gaussian_denoiser(deviation):
    """The best denoiser for data that is normal with this standard deviation."""
    return lambda latents, sigma: latents * (deviation**2 / (deviation**2 + sigma**2))


def test_euler_converges_to_the_exact_probability_flow():
    """For normal data x(sigma) ~ sqrt(deviation^2 + sigma^2); Euler's error halves with the step."""
    start, deviation, errors = np.full((1, 1, 1, 1), 3.0), 0.7, []
    for steps in (100, 200, 400):
        levels = 10 * (1 - np.arange(steps + 1) / steps) ** 3
        found = sample("euler", _gaussian_denoiser(deviation), start, levels, lambda: start)
        errors.append(abs(found - start * deviation / (deviation**2 + levels[0] ** 2) ** 0.5).item())
    assert errors[0] < 0.02
    assert errors[0] / errors[1] == pytest.approx(2, abs=0.15)
    assert errors[1] / errors[2] == pytest.approx(2, abs=0.1)


def test_euler_ancestral_samples_the_data():
    shape, levels = (1, 4, 64, 64), sigmas("karras", 120)
    noise = BatchNoise(5, shape)
    found = sample("euler_a", _gaussian_denoiser(0.7), noise() * levels[0], levels, noise)
    assert found.std() == pytest.approx(0.7, rel=0.03)
    assert found.mean() == pytest.approx(0, abs=0.02)


@pytest.mark.parametrize("name", SAMPLERS)
def test_one_step_gives_what_the_network_sees(name):
    levels = sigmas("discrete", 1)
    latents, noise = _start(levels)
    denoise = EpsDenoiser(_predict, stable_diffusion())
    np.testing.assert_array_equal(
        sample(name, denoise, latents, levels, noise), denoise(latents, float(levels[0]))
    )


def test_denoiser_scales_its_input_and_finds_the_timestep():
    seen = []

    def predict(latents, timestep):
        seen.append((latents, timestep))
        return np.full_like(latents, 2.0)

    latents = np.full((1, 4, 2, 2), 6.0, dtype=np.float32)
    sigma = stable_diffusion().timestep_to_sigma(np.array(500.25)).item()
    denoised = EpsDenoiser(predict, stable_diffusion())(latents, sigma)
    assert denoised.dtype == np.float32
    np.testing.assert_allclose(denoised, 6.0 - 2.0 * sigma, rtol=1e-6)
    np.testing.assert_allclose(seen[0][0], 6.0 / np.sqrt(sigma**2 + 1), rtol=1e-6)
    assert seen[0][1] == pytest.approx(500.25)


def test_guidance():
    unconditional, conditional = np.float32([[1, 2]]), np.float32([[3, -1]])
    combined = guided(unconditional, conditional, np.float64(7.5))
    assert combined.dtype == np.float32
    np.testing.assert_array_equal(combined, np.float32([[16, -20.5]]))
    np.testing.assert_array_equal(guided(unconditional, conditional, 1.0), conditional)
    np.testing.assert_array_equal(guided(unconditional, conditional, 0.0), unconditional)


@pytest.mark.parametrize("name", SAMPLERS)
def test_callback_follows_every_step_and_may_stop(name):
    levels = sigmas("karras", 5)
    latents, noise = _start(levels)
    calls = []

    def stop_at_third(index, steps, sigma):
        calls.append((index, steps, sigma))
        if index == 2:
            raise Cancelled("stopped")

    with pytest.raises(Cancelled):
        sample(name, EpsDenoiser(_predict, stable_diffusion()), latents, levels, noise, stop_at_third)
    assert calls == [(index, 5, levels[index]) for index in range(3)]


def test_numbers_that_are_not_finite_are_reported_with_their_step():
    levels = sigmas("karras", 5)
    latents, noise = _start(levels)

    def broken(latents, timestep):
        return np.full_like(latents, np.nan if timestep < 900 else 0)

    with pytest.raises(ExecutionError, match="step 2 of 5 gave numbers that are not finite"):
        sample("euler", EpsDenoiser(broken, stable_diffusion()), latents, levels, noise)


def test_unknown_sampler_is_refused():
    with pytest.raises(UsageError, match="unknown sampler 'ddpm'; the samplers are euler, euler_a"):
        sample("ddpm", _gaussian_denoiser(1), np.ones(1), np.array([1.0, 0.0]), lambda: np.ones(1))
