"""First stage: the autoencoder, on crops of random scenes, then on whole ones.

python -m examples.tinyshapes.train_vae WORK_FOLDER
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from examples.tinyshapes.captions import random_scene
from examples.tinyshapes.networks import make_vae
from examples.tinyshapes.progress import Journal, learning_rate, prepare
from examples.tinyshapes.shapes import SHAPES, SIDE, STYLES, draw_scene
from examples.tinyshapes.standardise import standardise

BATCH = 32
CROP = 32
WHOLE_SHARE = 0.3
"""The last part of the steps, which sees whole pictures, a quarter as many per step."""

KL_WEIGHT = 1e-4
PEAK_RATE = 2e-3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=900)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    prepare(arguments.threads, seed=1)
    journal = Journal(arguments.folder / "vae.pt")
    vae = make_vae().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(vae.parameters(), weight_decay=0.0)
    if journal.step:
        vae.load_state_dict(journal.state["vae"])
        optimizer.load_state_dict(journal.state["optimizer"])
    for step in range(journal.step, arguments.steps):
        generator = np.random.default_rng((1, step))
        images = torch.from_numpy(_batch(generator, step >= arguments.steps * (1 - WHOLE_SHARE)))
        images = images.permute(0, 3, 1, 2).float() / 127.5 - 1
        optimizer.param_groups[0]["lr"] = learning_rate(step, arguments.steps, PEAK_RATE)
        losses = _step(vae, optimizer, images.contiguous(memory_format=torch.channels_last))
        if journal.finished(step, arguments.steps, losses):
            journal.save(vae=vae.state_dict(), optimizer=optimizer.state_dict())
    standardise(vae.eval())
    torch.save(vae.state_dict(), arguments.folder / "vae-standard.pt")


def _step(vae: torch.nn.Module, optimizer: torch.optim.Optimizer, images: torch.Tensor) -> dict[str, float]:
    posterior = vae.encode(images).latent_dist
    difference = vae.decode(posterior.sample()).sample - images
    squares, distances = difference.square().mean(), difference.abs().mean()
    kl = posterior.kl().mean() / posterior.mean[0].numel()
    optimizer.zero_grad()
    (squares + 0.2 * distances + KL_WEIGHT * kl).backward()
    torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
    optimizer.step()
    return {"squares": squares.item(), "distances": distances.item(), "kl": kl.item()}


def _batch(generator: np.random.Generator, is_whole: bool) -> NDArray[np.uint8]:
    """Pictures of every shape and style, so that adapters find an autoencoder that knows theirs."""
    count = BATCH * CROP**2 // SIDE**2 if is_whole else BATCH
    pictures = []
    for _ in range(count):
        scene, _ = random_scene(generator, list(SHAPES), STYLES[int(generator.random() < 0.25)])
        picture = draw_scene(scene)
        if not is_whole:
            top, left = generator.integers(0, SIDE - CROP + 1, 2)
            picture = picture[top : top + CROP, left : left + CROP]
        pictures.append(picture)
    return np.stack(pictures)


if __name__ == "__main__":
    main()
