"""Pictures by PyTorch alone: diffusers' Euler scheduler, starting from the noise that sdcomp would use."""

from collections.abc import Sequence

import numpy as np
import torch
from diffusers import EulerDiscreteScheduler
from numpy.typing import NDArray

from examples.tinyshapes.dataset import tokenize
from examples.tinyshapes.train_model import SCHEDULE, Diffusion
from sdcomp.runtime.rng import BatchNoise


@torch.no_grad()
def sample_pictures(
    model: Diffusion, vae: torch.nn.Module, factor: float, prompts: Sequence[str], seeds: Sequence[int],
    steps: int, cfg_scale: float, side: int = 64,
) -> NDArray[np.uint8]:  # fmt: skip
    """One picture per prompt and seed, uint8 [n, side, side, 3]."""
    scheduler = EulerDiscreteScheduler(1000, timestep_spacing="linspace", **SCHEDULE)
    scheduler.set_timesteps(steps)
    shape = (1, 4, side // 4, side // 4)
    latents = torch.cat([torch.from_numpy(BatchNoise(seed, shape)()) for seed in seeds])
    latents = latents.float() * scheduler.sigmas[0]
    context = model.text(torch.cat([tokenize([""] * len(prompts)), tokenize(prompts)])).last_hidden_state
    for timestep in scheduler.timesteps:
        scaled = scheduler.scale_model_input(latents, timestep)
        both = model.unet(torch.cat([scaled, scaled]), timestep, context).sample
        unconditional, conditional = both.chunk(2)
        noise = unconditional + cfg_scale * (conditional - unconditional)
        latents = scheduler.step(noise, timestep, latents).prev_sample
    images = vae.decode(latents / factor).sample.clamp(-1, 1)
    pixels: NDArray[np.uint8] = ((images + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    return pixels
