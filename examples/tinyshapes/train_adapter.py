"""Trains an adapter on the finished model with the LyCORIS library, which also writes the file.

`style` draws every shape hatched; its factors are full matrices. `concept` knows one more shape, which the
model never saw; its larger factors are products of two, and it changes convolutions too.

    python -m examples.tinyshapes.train_adapter WORK_FOLDER style|concept
"""

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from lycoris.kohya import LycorisNetworkKohya

from examples.tinyshapes.dataset import Dataset, load_vae, make_dataset
from examples.tinyshapes.export import load_average
from examples.tinyshapes.progress import Journal, learning_rate, prepare
from examples.tinyshapes.shapes import BASE_SHAPES, CONCEPT
from examples.tinyshapes.train_model import Diffusion, random_batch, train_step

BATCH = 32


@dataclass(frozen=True)
class Plan:
    """What an adapter sees, how LyCORIS makes it, and how fast it learns."""

    scenes: tuple[tuple[int, Mapping[str, Any]], ...]
    rank: int
    options: Mapping[str, Any] = field(default_factory=dict)
    peak_rate: float = 2.5e-3


PLANS = {
    "style": Plan(((1200, {"style": "hatched"}),), 8, {"factor": 6, "full_matrix": True}),
    "concept": Plan(
        ((900, {"kinds": (CONCEPT,)}), (300, {"kinds": BASE_SHAPES})),
        8,
        {"factor": 4},
    ),
}


TARGETS = {
    "unet_target_module": ["Transformer2DModel", "ResnetBlock2D", "Downsample2D", "Upsample2D"],
    "unet_target_name": ["conv_in", "conv_out"],
    "text_encoder_target_module": ["CLIPAttention", "CLIPMLP"],
}
"""What LyCORIS calls a preset: the classes and names of layers that get a module."""


class TextModel(torch.nn.Module):
    """The text encoder under the name that files of the community give it."""

    def __init__(self, text: torch.nn.Module) -> None:
        super().__init__()
        self.text_model = text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("name", choices=PLANS)
    parser.add_argument("--steps", type=int, default=450)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    prepare(arguments.threads, seed=6)
    plan, path = PLANS[arguments.name], Path(__file__).parent / f"{arguments.name}-lokr.safetensors"
    model, factor = load_average(arguments.folder)
    dataset = adapter_dataset(load_vae(arguments.folder), plan, factor)
    network = attach(model, plan)
    train(network, model, dataset, plan, Journal(arguments.folder / f"{arguments.name}.pt"), arguments.steps)
    network.save_weights(str(path.resolve()), torch.half, metadata(arguments.name, plan, arguments.steps))
    print(f"{path}: {path.stat().st_size} bytes")


def adapter_dataset(vae: AutoencoderKL, plan: Plan, factor: float) -> Dataset:
    """All scenes of a plan, latents scaled as the model's are."""
    parts = [
        make_dataset(vae, count, seed=7 + index, factor=factor, **options)
        for index, (count, options) in enumerate(plan.scenes)
    ]
    latents, tokens = torch.cat([p.latents for p in parts]), torch.cat([p.tokens for p in parts])
    return Dataset(latents, tokens, factor)


def attach(model: Diffusion, plan: Plan) -> LycorisNetworkKohya:
    """LyCORIS' modules in the forward path of every attention, feed-forward and convolution layer."""
    text = TextModel(model.text)
    LycorisNetworkKohya.apply_preset(TARGETS)
    network = LycorisNetworkKohya(
        text,
        model.unet,
        lora_dim=plan.rank,
        conv_lora_dim=plan.rank,
        alpha=plan.rank,
        conv_alpha=plan.rank,
        network_module="lokr",
        warn_on_unmatched=False,
        **plan.options,
    )
    network.apply_to(text, model.unet, True, True)
    return network


def train(
    network: LycorisNetworkKohya, model: Diffusion, dataset: Dataset, plan: Plan, journal: Journal, steps: int
) -> None:
    """The model's own loss, on the adapter's parameters alone."""
    optimizer = torch.optim.AdamW(network.parameters(), betas=(0.9, 0.99), weight_decay=0.0)
    if journal.step:
        network.load_state_dict(journal.state["network"])
        optimizer.load_state_dict(journal.state["optimizer"])
    for step in range(journal.step, steps):
        optimizer.param_groups[0]["lr"] = learning_rate(step, steps, plan.peak_rate, warmup=30)
        loss = train_step(model, optimizer, random_batch(dataset, BATCH, seed=(6 << 32) + step))
        if journal.finished(step, steps, {"loss": loss}):
            journal.save(network=network.state_dict(), optimizer=optimizer.state_dict())


def metadata(name: str, plan: Plan, steps: int) -> dict[str, str]:
    """What trainers of the community write beside the tensors."""
    return {
        "modelspec.title": f"tinyshapes {name}",
        "modelspec.author": "The sdcomp authors",
        "modelspec.license": "Apache-2.0",
        "ss_base_model_version": "sd_v1",
        "ss_network_module": "lycoris.kohya",
        "ss_network_dim": str(plan.rank),
        "ss_network_alpha": str(plan.rank),
        "ss_network_args": json.dumps({"algo": "lokr", **plan.options}),
        "ss_steps": str(steps),
    }


if __name__ == "__main__":
    main()
