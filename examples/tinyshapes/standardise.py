"""Gives every channel of an autoencoder's latents mean 0 and variance 1, without changing its pictures.

The first and the last 1x1 convolution around the latents take the change in: one as it is, one inverted.
"""

import numpy as np
import torch
from diffusers import AutoencoderKL

from examples.tinyshapes.captions import random_scene
from examples.tinyshapes.shapes import draw_scene

SCENES = 200


@torch.no_grad()
def standardise(vae: AutoencoderKL) -> None:
    """Measures the latents of a few scenes and changes `quant_conv` and `post_quant_conv` in place."""
    generator = np.random.default_rng(5)
    pictures = np.stack([draw_scene(random_scene(generator)[0]) for _ in range(SCENES)])
    images = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1
    latents = torch.cat([vae.encode(part).latent_dist.mean for part in images.split(50)])
    mean, deviation = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    count = len(mean)
    before, after = vae.quant_conv, vae.post_quant_conv
    before.weight[:count] /= deviation[:, None, None, None]
    before.bias[:count] = (before.bias[:count] - mean) / deviation
    before.bias[count:] -= 2 * deviation.log()
    after.bias += after.weight[:, :, 0, 0] @ mean
    after.weight *= deviation[None, :, None, None]
