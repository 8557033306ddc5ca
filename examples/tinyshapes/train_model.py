"""Third stage: the UNet, on the latents of drawn scenes; the text encoder stays as it is.

python -m examples.tinyshapes.train_model WORK_FOLDER
"""

import argparse
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import DDPMScheduler

from examples.tinyshapes.dataset import Dataset, base_dataset, tokenize
from examples.tinyshapes.networks import make_text_encoder, make_unet
from examples.tinyshapes.progress import Journal, learning_rate, prepare

SCENES = 10000
BATCH = 32
DROPOUT = 0.1
"""Share of captions that are replaced by the empty one, for classifier-free guidance."""

OFFSET = 0.3
"""Deviation of what is added to a whole channel of the noise: offset noise, as the community calls it.

Noise of independent pixels leaves the average colour of even the noisiest latents visible. A network that
reads it there does not learn to read it in the caption, and fails where sampling begins, with noise alone.
"""

PEAK_RATE = 1.2e-3
AVERAGE = 0.995

SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=2800)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    prepare(arguments.threads, seed=3)
    dataset = base_dataset(arguments.folder, SCENES)
    print(f"{len(dataset.latents)} scenes, scaling factor {dataset.factor}", flush=True)
    model = load_text(arguments.folder)
    average = make_unet()
    average.load_state_dict(model.unet.state_dict())
    journal = Journal(arguments.folder / "model.pt")
    optimizer = torch.optim.AdamW(model.unet.parameters(), betas=(0.9, 0.99), weight_decay=0.0, fused=True)
    if journal.step:
        model.unet.load_state_dict(journal.state["unet"])
        average.load_state_dict(journal.state["average"])
        optimizer.load_state_dict(journal.state["optimizer"])
    for step in range(journal.step, arguments.steps):
        optimizer.param_groups[0]["lr"] = learning_rate(step, arguments.steps, PEAK_RATE)
        loss = train_step(model, optimizer, random_batch(dataset, BATCH, seed=(3 << 32) + step))
        blend(average.parameters(), model.unet.parameters(), min(AVERAGE, step / (step + 10)))
        if journal.finished(step, arguments.steps, {"loss": loss}):
            journal.save(
                unet=model.unet.state_dict(),
                average=average.state_dict(),
                optimizer=optimizer.state_dict(),
                factor=dataset.factor,
            )


class Diffusion(torch.nn.Module):
    """UNet and text encoder: the noise of noisy latents, given timesteps and tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.unet = make_unet().to(memory_format=torch.channels_last)
        self.text = make_text_encoder()

    def forward(self, latents: torch.Tensor, timesteps: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        context = self.text(tokens).last_hidden_state
        noise: torch.Tensor = self.unet(latents, timesteps, context).sample
        return noise


def load_text(folder: Path) -> Diffusion:
    """A UNet of random weights with the text encoder of `train_text`, which gets no gradients."""
    model = Diffusion()
    model.text.load_state_dict(torch.load(folder / "text.pt", weights_only=True)["text"])
    model.text.requires_grad_(False)
    return model


@dataclass(frozen=True)
class Batch:
    """Noisy latents, timesteps and tokens, the noise that is to be predicted, and what each error weighs."""

    noisy: torch.Tensor
    timesteps: torch.Tensor
    tokens: torch.Tensor
    noise: torch.Tensor
    weights: torch.Tensor


def random_batch(dataset: Dataset, size: int, seed: int) -> Batch:
    """Scenes with noise of random strength, strong noise more often; some without their captions."""
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randint(len(dataset.latents), (size,), generator=generator)
    latents, tokens = dataset.latents[chosen], dataset.tokens[chosen]
    dropped = torch.rand(size, generator=generator) < DROPOUT
    tokens = torch.where(dropped[:, None], tokenize([""]), tokens)
    noise = torch.randn(latents.shape, generator=generator)
    noise += OFFSET * torch.randn(*latents.shape[:2], 1, 1, generator=generator)
    scheduler = DDPMScheduler(1000, **SCHEDULE)
    timesteps = (1000 * torch.rand(size, generator=generator).sqrt()).long()
    noisy = scheduler.add_noise(latents, noise, timesteps).contiguous(memory_format=torch.channels_last)
    kept = scheduler.alphas_cumprod[timesteps]
    return Batch(noisy, timesteps, tokens, noise, noise_weights(kept / (1 - kept)))


def noise_weights(signal_to_noise: torch.Tensor) -> torch.Tensor:
    """Those of v-prediction (Salimans and Ho 2022).

    The noise's error is the picture's times the signal-to-noise ratio, and colours are decided where that is
    smallest: with equal weights they are learned last.
    """
    return 1 + 1 / signal_to_noise


def train_step(model: torch.nn.Module, optimizer: torch.optim.Optimizer, batch: Batch) -> float:
    """One step on the weighted squared error of the predicted noise; returns the error without weights."""
    errors = (model(batch.noisy, batch.timesteps, batch.tokens) - batch.noise).square().mean((1, 2, 3))
    optimizer.zero_grad()
    (errors * batch.weights).mean().backward()
    torch.nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], 1.0)
    optimizer.step()
    return errors.mean().item()


@torch.no_grad()
def blend(averages: Iterable[torch.Tensor], parameters: Iterable[torch.Tensor], keep: float) -> None:
    """Moves each moving average towards its parameter."""
    torch._foreach_lerp_(list(averages), list(parameters), 1 - keep)


if __name__ == "__main__":
    main()
