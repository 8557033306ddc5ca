"""Scenes as the model is trained on them: scaled latents and token numbers, computed once and kept."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL

from examples.tinyshapes.captions import random_scene
from examples.tinyshapes.networks import make_vae
from examples.tinyshapes.shapes import BASE_SHAPES, draw_scene
from sdcomp.frontend.tokenizer import Tokenizer

ENCODE_BATCH = 50


@dataclass(frozen=True)
class Dataset:
    """`latents` f32[n,4,16,16] of about unit variance, `tokens` i64[n,77]; `factor` scaled the latents."""

    latents: torch.Tensor
    tokens: torch.Tensor
    factor: float


def load_vae(folder: Path) -> AutoencoderKL:
    """The trained autoencoder of `train_vae`."""
    vae = make_vae()
    vae.load_state_dict(torch.load(folder / "vae-standard.pt", weights_only=True))
    return vae.eval().requires_grad_(False).to(memory_format=torch.channels_last)


def tokenize(captions: Sequence[str]) -> torch.Tensor:
    """Token numbers, i64[n,77]."""
    tokenizer = Tokenizer.default()
    return torch.from_numpy(np.stack([tokenizer.encode(caption).ids for caption in captions])).long()


def base_dataset(folder: Path, count: int) -> Dataset:
    """What the base model learns, from `folder` if it is there already."""
    path = folder / f"latents-{count}.pt"
    if not path.exists():
        vae = load_vae(folder)
        made = make_dataset(vae, count, seed=2)
        torch.save({"latents": made.latents, "tokens": made.tokens, "factor": made.factor}, path)
    return Dataset(**torch.load(path, weights_only=True))


def make_dataset(
    vae: AutoencoderKL,
    count: int,
    seed: int,
    kinds: Sequence[str] = BASE_SHAPES,
    style: str = "plain",
    factor: float | None = None,
) -> Dataset:
    """Draws and encodes `count` scenes; `factor` None: what gives these latents unit variance."""
    generator = np.random.default_rng(seed)
    captions, parts = [], []
    for first in range(0, count, ENCODE_BATCH):
        scenes = [random_scene(generator, kinds, style) for _ in range(min(ENCODE_BATCH, count - first))]
        captions += [caption for _, caption in scenes]
        pictures = torch.from_numpy(np.stack([draw_scene(scene) for scene, _ in scenes]))
        images = pictures.permute(0, 3, 1, 2).float() / 127.5 - 1
        with torch.no_grad():
            posterior = vae.encode(images.contiguous(memory_format=torch.channels_last)).latent_dist
        parts.append(posterior.mean.contiguous())
    latents = torch.cat(parts)
    factor = factor or round(1 / latents.std().item(), 5)
    return Dataset(latents * factor, tokenize(captions), factor)
